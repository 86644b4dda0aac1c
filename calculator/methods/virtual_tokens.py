"""What PEFT makes of a step's inputs where virtual tokens come on top (peft.PeftModelForCausalLM.forward)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.architecture.dimension import Dim
    from calculator.layers.context import Context


def lengthen_mask(context: Context, p: Dim) -> None:
    """Where padding is masked, a mask for the virtual tokens and one for all: float32, and kept through forward."""
    if context.training.padding:
        tape = context.tape
        ones = tape.new((context.batch, p), "float32", "mask of the virtual tokens")
        longer = tape.new((context.batch, p + context.length), "float32", "mask, lengthened")
        context.during_forward += [ones, longer]
