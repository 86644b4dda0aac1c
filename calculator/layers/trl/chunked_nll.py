"""TRL's `chunked_nll`: the loss of labeled tokens in chunks, each of which is checkpointed.

Source: trl/trainer/sft_trainer.py of TRL 1.9, _chunked_cross_entropy_loss and _chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import indexing, products
from calculator.engine import operations as ops
from calculator.engine.checkpoint import checkpoint
from calculator.engine.tape import Tensor
from calculator.layers.loss import log_softmax, nll_loss
from calculator.layers.trl.labels import labeled_tokens

if TYPE_CHECKING:
    from calculator.layers.context import Context

#: The number of labeled tokens of a chunk.
CHUNK_SIZE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkedNLL:
    """The output head and the loss, computed from the logits of a few tokens at a time."""

    #: The number of labels in a whole step, by which the sum is divided.
    num_items: Tensor

    def __call__(self, context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the loss, and the counts that the metrics need."""
        head = context.bind(context.model.output)
        weight, bias = head.own["weight"], head.own.get("bias")
        context.set_scope("loss: ")
        tape, rows = context.tape, named(hidden_states.shape[0] * (hidden_states.shape[1] - 1), "B × (S - 1)")
        hidden, labels = _flattened(context, hidden_states, rows)
        valid = tape.new((rows,), "bool", "labeled")
        outputs = [tape.new((), "int64", "number of labels")]
        outputs += [tape.new((), "float32", name) for name in ("correct tokens", "entropy, summed")]
        order = _order(valid)
        hidden = indexing.index(hidden, order, "hidden states, labeled first")
        labels = tape.new((rows,), "int64", "labels, labeled first")
        padded = tape.new((), "int64", "tokens of whole chunks")
        loss = tape.new((), "float32", "loss, 0")
        for size in _chunk_sizes(rows, labeled_tokens(context)):
            part = ops.slice_from_end(hidden, (size, hidden.shape[1]))
            target = Tensor(tape, labels.storage, (size,), "int64", None)
            run = partial(_chunk, context, weight, bias, target)
            chunk_loss, *metrics = checkpoint(run, part, captured=labels)
            loss = ops.add(loss, chunk_loss, "loss so far")
            totals = [ops.add(total, metric, "so far") for total, metric in zip(outputs[1:], metrics, strict=True)]
            outputs[1:] = totals
            del totals
        loss = ops.mul(loss, self.num_items, "loss, divided")
        del padded, part, target, run, chunk_loss, metrics
        return loss, outputs


def _flattened(context: Context, hidden_states: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Return hidden states and labels without the last position. They are copies unless there is one sequence."""
    batch, length, width = hidden_states.shape
    hidden = ops.narrow(hidden_states, (batch, length - 1, width))
    if batch == 1:
        return ops.view(hidden, (rows, width)), Tensor(context.tape, None, (rows,), "int64", None)
    hidden = ops.contiguous(hidden, "hidden states without the last")
    return ops.view(hidden, (rows, width)), context.tape.new((rows,), "int64", "labels without the first")


def _order(valid: Tensor) -> Tensor:
    """Return the order that puts labeled tokens first."""
    tape = valid.tape
    as_int8 = tape.new(valid.shape, "int8", "labeled, as int8")
    values = tape.new(valid.shape, "int8", "labeled, sorted")
    order = tape.new(valid.shape, "int64", "order")
    del as_int8, values
    return order


def _chunk_sizes(rows: int, labeled: int) -> list[int]:
    """Return the sizes of up to three chunks. Further ones in the middle would repeat the second."""
    if labeled <= CHUNK_SIZE:
        return [_at_most_a_chunk(rows)]
    before = -(-labeled // CHUNK_SIZE) - 1
    last = _at_most_a_chunk(rows - before * CHUNK_SIZE)
    return [CHUNK_SIZE, last] if labeled <= 2 * CHUNK_SIZE else [CHUNK_SIZE, CHUNK_SIZE, last]


def _at_most_a_chunk(size: int) -> int:
    return min(CHUNK_SIZE, size)


def _chunk(
    context: Context, weight: Tensor, bias: Tensor | None, target: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a chunk's loss, its correct tokens and the sum of its entropies. hidden: (tokens, hidden_size)."""
    context.set_scope("loss: ")
    logits = _product(hidden, weight)
    if bias is not None:
        logits = ops.add(logits, ops.cast(bias, "float32", "bias in float32"), "logits of a chunk with bias")
    logits = context.forward.logits(context, logits)
    context.set_scope("loss: ")
    log_p = log_softmax(logits)
    chunk_loss = nll_loss(log_p, target)
    tape, shape = context.tape, hidden.shape[:1]
    valid = tape.new(shape, "bool", "labeled tokens of a chunk")
    correct = _correct(hidden, valid)
    product = ops.mul(ops.unary(log_p, "probabilities of a chunk", saves="result"), log_p, "p · log p of a chunk")
    entropy = ops.sum_over(product, shape, "negative entropies of a chunk")
    del product
    entropy = ops.mul(ops.scale(entropy, "entropies of a chunk"), valid, "entropies of labeled tokens")
    return chunk_loss, correct, ops.sum_over(entropy, (), "entropy of a chunk")


def _product(hidden: Tensor, weight: Tensor) -> Tensor:
    """Return the logits. The head is a view, of which autocast caches no copy."""
    hidden, head = ops.cast(hidden, "float32", "chunk in float32"), ops.cast(weight, "float32", "head in float32")
    return products.matmul(hidden, ops.view(head, head.shape), None, weight.shape[0], "logits of a chunk")


def _correct(hidden: Tensor, valid: Tensor) -> Tensor:
    """Return how many labeled tokens of a chunk the logits predict."""
    tape, shape = valid.tape, hidden.shape[:1]
    predicted = tape.new(shape, "int64", "predicted tokens")
    equal = tape.new(shape, "bool", "predicted right")
    del predicted
    correct_and_labeled = tape.new(shape, "bool", "predicted right and labeled")
    del equal
    count = tape.new((), "int64", "correct tokens")
    del correct_and_labeled
    out = tape.new((), "float32", "correct tokens in float32")
    del count
    return out
