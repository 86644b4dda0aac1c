"""Cut Cross-Entropy: the output head and the loss without logits, and their gradients in the backward pass.

Source: cut_cross_entropy/cce.py, cce_lse_forward.py, cce_backward.py, indexed_dot.py, utils.py and
transformers/utils.py of apple/ml-cross-entropy (June 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import named
from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.layers.trl.labels import labelled_tokens

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context

#: Tokens, or entries of the vocabulary, that share a lock; and columns of the hidden states that do.
ROWS_OF_A_LOCK = 128
COLUMNS_OF_A_LOCK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class CutCrossEntropy:
    """linear_cross_entropy in the place of the output head and its loss."""

    #: The number of labels in a whole step, by which the sum is divided.
    num_items: Tensor

    def __call__(self, context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the loss; there are no logits."""
        weight = context.bind(context.model.output).own["weight"]
        context.set_scope("loss: ")
        labelled = _labelled(context, hidden_states.shape)
        tokens = named(hidden_states.shape[0] * hidden_states.shape[1], "B × S")
        capped = context.config.get("final_logit_softcapping") is not None
        flat = ops.view(hidden_states, (tokens, hidden_states.shape[2]))
        loss = _linear_cross_entropy(flat, weight, labelled, capped=capped)
        del flat, labelled
        return ops.mul(loss, self.num_items, "loss, divided"), []


def _labelled(context: Context, shape: Shape) -> Tensor:
    """Return the positions of labelled tokens (_build_flat_valids)."""
    tape, count = context.tape, labelled_tokens(context)
    is_labelled = tape.scratch((shape[0], named(shape[1] - 1, "(S - 1)")), "bool", "labelled")
    pairs = tape.scratch((count, 2), "int64", "indices of labelled tokens")
    del is_labelled
    narrow = tape.scratch((count, 2), "int32", "indices of labelled tokens in int32")
    del pairs
    positions = tape.new((count,), "int64", "positions of labelled tokens")
    del narrow
    return positions


class _Inputs(NamedTuple):
    """What the function's context keeps besides its saved tensors: the positions stay as long as the loss's graph."""

    labelled: Tensor
    #: The dtypes of hidden states and head before autocast's copies.
    hidden: DType
    head: DType


def _linear_cross_entropy(x: Tensor, weight: Tensor, labelled: Tensor, *, capped: bool) -> Tensor:
    """Return the sum of the losses of x: (tokens, hidden_size), by weight: (vocab_size, hidden_size)."""
    tape, region = x.tape, x.tape.autocast
    needs_grad = bool(x.edge or weight.edge)
    kept = _Inputs(labelled, x.dtype, weight.dtype)
    node = Node(tape, _linear_cross_entropy_back, (x.edge, weight.edge), kept) if needs_grad else None
    if region is not None:
        x = ops.cast(x.detach(), region.dtype, f"hidden states in {region.dtype}")
        weight = ops.cast(weight.detach(), region.dtype, f"head in {region.dtype}")
    (count,) = labelled.shape
    log_sum_exp = tape.new((count,), "float32", "log-sum-exp")
    locks = tape.scratch((_parts(count, ROWS_OF_A_LOCK),), "int32", "locks")
    average = tape.new((weight.shape[0],), "float32", "mean logit of each token") if needs_grad else None
    del locks
    losses = tape.scratch((count,), "float32", "negative logits of the labels")
    if capped:
        losses = tape.scratch((count,), "float32", "negative logits of the labels, capped")
    if node is not None and average is not None:
        for saved in (x, weight, log_sum_exp, labelled, average):
            node.save(saved)
    loss = tape.new((), "float32", "loss, summed", node)
    del losses
    return loss


def _parts(count: int, size: int) -> int:
    return named(-(-count // size), f"⌈{count} / {size}⌉")


def _linear_cross_entropy_back(node: Node, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of hidden states and head, from blocks of logits that no tensor has."""
    x, weight, _, labelled, _ = node.saved
    tape, columns = grad.tape, _parts(x.shape[1], COLUMNS_OF_A_LOCK)
    order = _order(weight)
    of_x = tape.new(x.shape, x.dtype, "gradient of the hidden states") if node.edges[0] else None
    of_weight = tape.new(weight.shape, weight.dtype, "gradient of the head") if node.edges[1] else None
    locks = [
        tape.scratch((_parts(rows, ROWS_OF_A_LOCK), columns), "int32", "locks")
        for rows, edge in zip((labelled.shape[0], weight.shape[0]), node.edges, strict=True)
        if edge
    ]
    if of_weight is not None:
        of_weight = ops.cast(of_weight, node.context.head, "gradient of the head, cast")
    if of_x is not None:
        of_x = ops.cast(of_x, node.context.hidden, "gradient of the hidden states, cast")
    del locks, order
    return of_x, of_weight


def _order(weight: Tensor) -> Tensor:
    """Return the order of the vocabulary by mean logit (sort_logit_avg)."""
    tape, entries = weight.tape, (weight.shape[0],)
    values, indices = (
        tape.scratch(entries, "float32", "mean logits, sorted"),
        tape.scratch(entries, "int64", "order of the mean logits"),
    )
    del values
    order = tape.scratch(entries, "int32", "order of the vocabulary")
    del indices
    return order
