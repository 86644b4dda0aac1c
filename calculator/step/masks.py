"""The attention mask that all layers of a kind share. Source: transformers/masking_utils.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.step.context import Context
    from calculator.step.tape import Tensor


def causal(context: Context) -> Tensor | None:
    """A boolean mask for sdpa where something is padding, a float one for eager, none where the kernel knows best."""
    context.scoped("model.attention mask: ")
    if context.attention == "eager":
        return _additive(context)
    needed = context.training.padding or context.past
    return _boolean(context) if needed and context.attention == "sdpa" else None


def _boolean(context: Context) -> Tensor:
    """(batch, 1, sequence, sequence): causal and padding."""
    tape, batch, length = context.tape, context.batch, context.length
    width = length + context.past
    if not context.training.padding:
        return tape.new((1, length, width), "bool", "causal")
    padding = tape.new((batch, width), "bool", "padding")
    causal_part = tape.new((1, length, width), "bool", "causal")
    both = tape.new((batch, length, width), "bool", "causal and padding")
    del causal_part, padding
    return both


def _additive(context: Context) -> Tensor:
    """The same in the hidden states' dtype, 0 or the smallest number."""
    boolean = _boolean(context)
    shape = (context.batch, 1, context.length, context.length + context.past)
    mask = context.tape.new(shape, context.dtype, "additive")
    del boolean
    return mask
