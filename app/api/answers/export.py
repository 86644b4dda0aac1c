"""Answer of `POST /api/v1/export`: a file that runs the requested training."""

from typing import Any

from app.api.answers.answer import Answer, described


class NotExpressedAnswer(Answer):
    """A setting of the request that the exported file cannot express."""

    loc: str = described("The setting's dotted path in the request.", "training.autocast")
    value: Any = described("The requested value.", None)
    why: str = described(
        "What the tool does instead.", "axolotl trains bfloat16 weights under autocast (AMP) in bfloat16"
    )


class ExportAnswer(Answer):
    """A training script or a tool's configuration file."""

    filename: str = described("A suitable file name.", "train.py")
    media_type: str = described("The media type of the content.", "text/x-python")
    content: str = described(
        "The text of the file. A comment at its head states the estimate.",
        "# QLoRA of meta-llama/Llama-3.1-8B. ...",
    )
    not_expressed: tuple[NotExpressedAnswer, ...] = described(
        "Settings in which the file differs from the request.", [{"loc": "training.autocast", "value": None}]
    )
