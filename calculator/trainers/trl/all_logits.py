"""The output of a model that computes the logits of every token, and what it returns with them.

Source: accelerate/utils/operations.py, convert_outputs_to_fp32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.layers.loss import logits_of
from calculator.trainers.transformers.loop import in_float32

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


def all_outputs(context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the logits of every position, also in place of the loss, and the tensors of layers that it returns."""
    logits = logits_of(context, context.forward, hidden_states)
    returned, context.hidden_states = context.hidden_states or [], None
    if context.prepared.layer_outputs == "cache" and context.cache is not None:
        returned = [tensor for pair in context.cache.kept for tensor in pair]
    return logits, [logits, *returned]


def converted(context: Context, outputs: list[Tensor]) -> list[Tensor]:
    """Return the outputs after autocast: logits and hidden states are cast to float32, the cache is not."""
    if context.training.autocast is None:
        return outputs
    count = 1 if context.prepared.layer_outputs == "cache" else len(outputs)
    return [*map(in_float32, outputs[:count]), *outputs[count:]]
