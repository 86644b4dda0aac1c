"""Answer of `POST /api/v1/import`: the request that another tool's file describes."""

from typing import Any

from app.api.answers.answer import Answer, described


class NotUnderstoodAnswer(Answer):
    """A key of the imported file that the request does not reproduce exactly."""

    key: str = described("The key in the file.", "optimizer")
    value: Any = described("Its value; null if the file does not set it.", "muon")
    why: str = described(
        "Why the request differs, and what it uses instead.",
        "is not modeled: adamw_torch_fused is used",
    )


class ImportAnswer(Answer):
    """The request that the file describes, and what the request does not reproduce."""

    format: str = described("The format in which the file was read.", "axolotl")
    tool: str = described(
        "The tool that trains, as `GET /api/v1/trainers` names it; empty if it is the request's own trainer.",
        "axolotl",
    )
    request: dict[str, Any] = described(
        "A request body for POST /api/v1/estimate.", {"model": "meta-llama/Llama-3.1-8B"}
    )
    not_understood: tuple[NotUnderstoodAnswer, ...] = described(
        "Keys that the request does not reproduce exactly.", [{"key": "optimizer", "value": "muon"}]
    )
    warnings: tuple[str, ...] = described(
        "What the file switches on and Headroom does not model (DeepSpeed ZeRO, FSDP, Unsloth, ...). The"
        " figures of the request are then of another run; each warning says of which.",
        ["Headroom does not model deepspeed: zero3.json. ZeRO shards optimizer states, gradients, ..."],
    )
    without_effect: tuple[str, ...] = described(
        "Keys that do not change the memory of a training step.", ["learning_rate"]
    )
