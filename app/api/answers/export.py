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


class AdditionalFileAnswer(Answer):
    """A file that the exported one needs next to it."""

    filename: str = described("The file's name, which the exported file or its command refers to.", "accelerate.yaml")
    media_type: str = described("The media type of the content.", "application/yaml")
    content: str = described("The text of the file.", "compute_environment: LOCAL_MACHINE\n...")


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
    additional_files: tuple[AdditionalFileAnswer, ...] = described(
        "With several GPUs, files to save next to it: accelerate's configuration for FSDP2, or DeepSpeed's.",
        [{"filename": "accelerate.yaml", "media_type": "application/yaml", "content": "..."}],
    )
