"""The sentences of an answer about every trainer of TRL: defaults that differ from the request, and casts.

Source: trl/trainer/base_config.py (bf16, gradient_checkpointing); trl/trainer/utils.py, create_model_from_path (dtype).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training


def defaults(training: Training, config: str, names: Container[str]) -> Iterator[str]:
    """Yield the defaults of a config's class that differ from the request. `names` are arguments that are true."""
    if training.autocast is None and "bf16" in names:
        yield f"{config} sets bf16=True by default: set training.autocast to bfloat16 for figures of that default."
    if not training.gradient_checkpointing and "gradient_checkpointing" in names:
        yield (
            f"{config} sets gradient_checkpointing=True by default: set training.gradient_checkpointing for figures of "
            "that default."
        )


def loaded_in_float32(training: Training, trainer: str) -> str:
    """Return the sentence on the dtype in which a trainer loads a model by its name."""
    return (
        f"{trainer} loads a model that is given by its name in float32. The figures are for one in "
        f"{training.dtype} (model_init_kwargs={{'dtype': '{training.dtype}'}}, or a model that is passed)."
    )


def prepared_by_script(stack: StackVersions) -> str:
    """Return the sentence that the script prepares a 4-bit model."""
    return (
        f"TRL {stack.trl} does not prepare a 4-bit model for k-bit training. The figures are for a script that "
        "does: set prepare_model_for_kbit_training false for one that does not."
    )


def prepared_by_trl(stack: StackVersions) -> str:
    """Return the sentence that the trainer prepares a 4-bit model, and what it casts back."""
    return (
        f"TRL {stack.trl} prepares a 4-bit model for k-bit training itself. With bf16=True it then casts the "
        "embeddings and the output head to bfloat16."
    )


def casts_to_bfloat16(stack: StackVersions) -> str:
    """Return the sentence on what is cast in a 4-bit model."""
    return f"TRL {stack.trl} casts the trained parameters of a 4-bit model to bfloat16, whatever adapter_dtype is."
