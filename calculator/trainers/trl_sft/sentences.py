"""The sentences of an answer about TRL's SFTTrainer: its loss, and its own defaults that differ from the request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.devices.kernels import FLOAT32_PRODUCTS
from calculator.layers.trl.chunked_nll import CHUNK_SIZE
from calculator.layers.trl.fused_head import TOKEN_CHUNK_SIZE, VOCAB_CHUNK_SIZE
from calculator.stack.releases import release
from calculator.trainers.trl import qlora, sentences
from calculator.trainers.trl_sft.releases import BOUNDS, OWN_LOSS, logs_entropy, loss_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training

_LOSSES = {
    "fused": f"computes the loss in its fused output head, from tiles of {TOKEN_CHUNK_SIZE:,} tokens × "
    f"{VOCAB_CHUNK_SIZE:,} logits",
    "chunked_nll": f"computes the loss from the logits of {CHUNK_SIZE} labeled tokens at a time (chunked_nll)",
    "transformers": "leaves the loss to the model, as transformers.Trainer does",
    "accuracy": "computes the loss from all logits, and then the accuracy that it logs",
    "nll": "computes the loss from all logits, and then the entropy and the accuracy that it logs (nll)",
}


def assumptions(training: Training, stack: StackVersions, *, in_4_bits: bool) -> Iterator[str]:
    """Yield how the release computes the loss, and what it casts."""
    loss = _computed(training, stack)
    yield f"TRL {stack.trl} {_LOSSES[loss]}."
    if loss == "fused" and release(stack.torch)[:2] < FLOAT32_PRODUCTS:
        yield (
            f"PyTorch {stack.torch} has no product with a float32 result: the backward pass of the loss multiplies"
            " float32 copies of its tiles. PyTorch 2.8 needs none."
        )
    if in_4_bits and not qlora.prepares(training, stack):
        yield sentences.casts_to_bfloat16(stack)
    elif in_4_bits:
        yield sentences.prepared_by_trl(stack)


def _computed(training: Training, stack: StackVersions) -> str:
    """Return the key of the sentence on the loss and on what is logged from the logits."""
    if not logs_entropy(stack):
        return "transformers" if release(stack.trl)[:2] < OWN_LOSS else "accuracy"
    return loss_of(training, stack)


def warnings(training: Training, stack: StackVersions, *, is_prepared: bool) -> Iterator[str]:
    """Yield the trainer's own defaults that differ from the request."""
    yield from sentences.defaults(training, "SFTConfig", ("bf16", "gradient_checkpointing"))
    if training.flattened and training.attention != "flash_attention_2" and release(stack.trl) < BOUNDS:
        yield f"TRL {stack.trl} warns that padding-free training is known to work with FlashAttention only."
    newest = release(stack.trl) >= (1, 0)
    if training.dtype != "float32" and newest and not is_prepared:
        yield sentences.loaded_in_float32(training, "SFTTrainer")
    if is_prepared and newest:
        yield sentences.prepared_by_script(stack)
