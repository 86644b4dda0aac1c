"""What an answer says about TRL's SFTTrainer: its loss, and defaults of its own that the request does not have.

Source: trl/trainer/base_config.py (bf16, gradient_checkpointing); trl/trainer/utils.py, create_model_from_path (dtype).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.layers.trl.chunked_nll import CHUNK_SIZE
from calculator.layers.trl.fused_head import TOKEN_CHUNK_SIZE, VOCAB_CHUNK_SIZE
from calculator.stack.releases import release
from calculator.trainers.trl_sft import qlora
from calculator.trainers.trl_sft.eras import loss_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training

_LOSSES = {
    "fused": f"computes the loss in its fused output head, from tiles of {TOKEN_CHUNK_SIZE:,} tokens × "
    f"{VOCAB_CHUNK_SIZE:,} logits",
    "chunked_nll": f"computes the loss from the logits of {CHUNK_SIZE} labelled tokens at a time (chunked_nll)",
    "nll": "computes the loss from all logits, and then the entropy and the accuracy that it logs (nll)",
}


def assumptions(training: Training, stack: StackVersions, *, in_4_bits: bool) -> Iterator[str]:
    """Yield how the release computes the loss, and what it casts."""
    yield f"TRL {stack.trl} {_LOSSES[loss_of(training, stack)]}."
    if in_4_bits and not qlora.prepares(stack):
        yield f"TRL {stack.trl} casts the trained parameters of a 4-bit model to bfloat16, whatever adapter_dtype is."
    elif in_4_bits:
        yield (
            f"TRL {stack.trl} prepares a 4-bit model for k-bit training itself. With bf16=True it then casts the "
            "embeddings and the output head to bfloat16."
        )


def warnings(training: Training, stack: StackVersions, *, is_prepared: bool) -> Iterator[str]:
    """Yield the trainer's own defaults where the request differs."""
    if training.autocast is None:
        yield "SFTConfig sets bf16=True by default: set training.autocast to bfloat16 for figures of that default."
    if not training.gradient_checkpointing:
        yield (
            "SFTConfig sets gradient_checkpointing=True by default: set training.gradient_checkpointing for figures of "
            "that default."
        )
    newest = release(stack.trl) >= (1, 0)
    if training.dtype != "float32" and newest and not is_prepared:
        yield (
            "SFTTrainer loads a model that is given by its name in float32. The figures are for one in "
            f"{training.dtype} (model_init_kwargs={{'dtype': '{training.dtype}'}}, or a model that is passed)."
        )
    if is_prepared and newest:
        yield (
            f"TRL {stack.trl} does not prepare a 4-bit model for k-bit training. The figures are for a script that "
            "does: set prepare_model_for_kbit_training false for one that does not."
        )
