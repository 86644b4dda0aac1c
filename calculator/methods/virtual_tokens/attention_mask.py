"""The attention mask of a step with virtual tokens (peft.PeftModelForCausalLM.forward)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.architecture.dimension import Dim
    from calculator.layers.context import Context


def lengthen_mask(context: Context, p: Dim) -> None:
    """Create a mask for the virtual tokens and one for all tokens, if padding is masked.

    Both are float32 and alive until the forward pass ends.
    """
    if context.training.passes_mask:
        tape = context.tape
        ones = tape.new((context.batch, p), "float32", "mask of the virtual tokens")
        longer = tape.new((context.batch, p + context.length), "float32", "mask, lengthened")
        context.forward_locals += [ones, longer]
        context.padding_mask = longer
