"""The score of each sequence: that of its last token.

Source: transformers/modeling_layers.py, GenericForSequenceClassification.forward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.indexing import index

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


def score(context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the scores, in place of a loss too: (sequences, 1)."""
    tape, (sequences, length, _) = context.tape, hidden_states.shape
    scores = context.bind(context.model.output)(hidden_states)
    context.set_scope("score: ")
    differs = tape.new((sequences, length), "bool", "tokens that are no padding")
    is_token = tape.new((sequences, length), "int32", "tokens, as int32")
    del differs
    positions = tape.new((length,), "int32", "positions")
    last = tape.new((sequences, length), "int32", "positions of tokens")
    last = tape.new((sequences,), "int64", "last tokens")
    rows = tape.new((sequences,), "int64", "rows")
    pooled = index(scores, rows, "scores of last tokens")
    del is_token, positions, last, rows
    return pooled, [pooled]
