"""The score of each sequence: that of its last token.

Source: transformers/modeling_layers.py, GenericForSequenceClassification.forward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import indexing
from calculator.engine import operations as ops

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


def score_of_last_token(context: Context, hidden_states: Tensor) -> Tensor:
    """Score every token, and return the scores of each sequence's last token that is not padding.

    If the input is embeddings, or the config has no padding token, it is the last token.
    """
    tape, (sequences, length, _) = context.tape, hidden_states.shape
    scores = context.bind(context.model.output)(hidden_states)
    context.set_scope("score: ")
    if context.method.embeds_inputs:
        rows = tape.new((sequences,), "int64", "rows")
        last_scores = ops.narrow(scores, (sequences, scores.shape[2]), merged=False)
        return indexing.index(last_scores, rows, "scores of last tokens")
    differs = tape.new((sequences, length), "bool", "tokens that are no padding")
    is_token = tape.new((sequences, length), "int32", "tokens, as int32")
    del differs
    positions = tape.new((length,), "int32", "positions")
    last = tape.new((sequences, length), "int32", "positions of tokens")
    last = tape.new((sequences,), "int64", "last tokens")
    rows = tape.new((sequences,), "int64", "rows")
    pooled = indexing.index_pairs(scores, rows, last, "scores of last tokens")
    del is_token, positions, last, rows
    return pooled
