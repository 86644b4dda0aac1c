"""The output head and loss of Unsloth 2026.10 in one function, which runs on labeled tokens only.

It computes its gradients in the forward pass, by chunks of tokens or by tiles of tokens and vocabulary. No part of it
is compiled.

Source: unsloth_zoo/fused_losses/chunked_logprob.py, unsloth_chunked_ce_loss; fused_linear.py, _ce_impl, _row_forward
and _tiled_forward; unsloth/utils/packing.py, mask_packed_boundary_labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import Dim, named
from calculator.engine.autograd import Node
from calculator.layers.trl.labels import labeled_tokens
from calculator.trainers.unsloth.families import has_rows
from calculator.trainers.unsloth.loss_layout import SPLIT, chunk_rows, is_split, is_tiled, tile_rows

if TYPE_CHECKING:
    from calculator.engine.tape import Tape, Tensor
    from calculator.layers.context import Context

#: The numbers that each split of a row's logits has, in a pass over chunks and in one over tiles.
_OF_SPLIT, _OF_TILED_SPLIT = 7, 8

_GRADIENTS = ("gradient of the hidden states", "gradient of the head")


def labeled_loss(context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the loss. There are no logits."""
    tape, weight = hidden_states.tape, context.bind(context.model.output).own["weight"]
    context.set_scope("loss: ")
    labels = [_masked_labels(context), tape.new(hidden_states.shape[:2], "int64", "labels, shifted")]
    scalars = [tape.new((), "float32", name) for name in ("labels in the step", "divisor", "scaling")]
    loss, grads = _losses(context, hidden_states, weight)
    node = Node(tape, _labeled_loss_back, (hidden_states.edge, weight.edge)[: len(grads)])
    for gradient in grads:
        node.save(gradient)
    node.save(scalars[-1])
    loss = tape.new((), "float32", "loss", node)
    del labels, scalars, grads
    return loss, []


def _masked_labels(context: Context) -> Tensor | None:
    """Return the labels of a row of samples without those of the first tokens. None if the rows are padded."""
    if not has_rows(context.prepared.stack, context.model.model_type):
        return None
    tape, samples = context.tape, (context.batch,)
    lengths = tape.scratch(samples, "int64", "lengths of samples")
    sums = [tape.scratch(samples, "int64", f"{name} of samples") for name in ("ends", "zeros", "first tokens")]
    labels = tape.new((context.batch, context.length), "int64", "labels, without those of first tokens")
    del lengths, sums
    return labels


def _losses(context: Context, hidden_states: Tensor, weight: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the sum of losses, and the gradients of the hidden states and of the head if it is trained."""
    tape, count = hidden_states.tape, labeled_tokens(context)
    tokens = (context.batch * context.length,)
    bad = [tape.scratch(tokens, "bool", "whether a label is out of bounds"), tape.scratch((), "bool", "none is")]
    kept = tape.scratch(tokens, "bool", "whether a token is labeled")
    index = tape.scratch((count,), "int64", "labeled tokens")
    del kept
    grads = [tape.new(hidden_states.shape, hidden_states.dtype, _GRADIENTS[0])]
    if weight.edge is not None:
        grads.append(tape.new(weight.shape, weight.dtype, _GRADIENTS[1]))
    scalars = [tape.scratch((), "float32", name) for name in ("sum of losses", "scale of the gradients")]
    losses = tape.scratch((count,), "float32", "loss of each token")
    by = _by_tiles if is_tiled(context, weight, count) else _by_chunks
    left = by(context, hidden_states, weight, count)
    exact = [tape.scratch((count,), "float64", f"{name} of each token, in float64") for name in ("logit", "loss")]
    del exact, left, bad, index, losses
    return scalars[0], grads


def _by_chunks(context: Context, hidden_states: Tensor, weight: Tensor, count: Dim) -> list[Tensor | None]:
    """Compute the logits of some tokens at a time in one buffer, and write their gradient over them.

    The tensors of a chunk stay until those of the next one replace them. Those of the last chunk are returned.
    """
    tape, (vocabulary, width) = hidden_states.tape, weight.shape
    rows = chunk_rows(context, vocabulary, width, count)
    logits = tape.scratch((rows, named(-(-vocabulary // 8) * 8, "vocab_size")), "float32", "logits of a chunk")
    rest = tape.scratch((), "float32", "scale over its power of two") if weight.edge is None else None
    copied = int(count) < context.batch * context.length
    x = chunk_labels = maxima = grad = None
    for size in _sizes(count, rows):
        if copied:
            x = tape.scratch((size, width), hidden_states.dtype, "hidden states of a chunk")
            chunk_labels = tape.scratch((size,), "int64", "labels of a chunk")
        maxima = tape.scratch((size,), "float32", "logsumexp of each token")
        _split_statistics(tape, vocabulary, size)
        grad = tape.scratch((size, width), "float32", "gradient of a chunk, in float32")
        if copied:
            tape.scratch((size, width), hidden_states.dtype, "gradient of a chunk")
    return [logits, rest, x, chunk_labels, maxima, grad]


def _split_statistics(tape: Tape, vocabulary: int, rows: Dim) -> None:
    if is_split(vocabulary):
        tape.scratch((_OF_SPLIT, -(-vocabulary // SPLIT), rows), "float32", "statistics of splits of the vocabulary")


def _by_tiles(context: Context, hidden_states: Tensor, weight: Tensor, count: Dim) -> list[Tensor | None]:
    """Compute the logits of tiles of tokens and vocabulary in one buffer, and add up the gradient in float32.

    Nothing stays.
    """
    tape, (vocabulary, width) = hidden_states.tape, weight.shape
    rows = tile_rows(context, count)
    scale = tape.scratch((), "float32", "scale, negated")
    sums = tape.scratch((count,), "float32", "logsumexp of each token")
    logits = tape.scratch((rows, named(SPLIT, "columns of a tile")), "float32", "logits of a tile")
    total = tape.scratch((rows, width), "float32", "gradient of a tile's tokens")
    maxima = tape.scratch((rows,), "float32", "maximum of each token")
    copied = int(count) < context.batch * context.length
    x = chunk_labels = parts = None
    for size in _sizes(count, rows):
        if copied:
            x = tape.scratch((size, width), hidden_states.dtype, "hidden states of a tile")
            chunk_labels = tape.scratch((size,), "int64", "labels of a tile")
        shape = (_OF_TILED_SPLIT, -(-vocabulary // SPLIT), size)
        parts = tape.scratch(shape, "float32", "statistics of splits of the vocabulary")
    del scale, sums, logits, total, maxima, x, chunk_labels, parts
    return []


def _sizes(count: Dim, rows: Dim) -> list[Dim]:
    """Return the numbers of tokens of the first two chunks and of the last one. None in between needs more."""
    left = count % rows
    whole = [rows] * min(count // rows, 3 if not left else 2)
    return [*whole, named(left, "last chunk")] if left else whole


def _labeled_loss_back(node: Node, grad: Tensor) -> list[Tensor]:
    """Scale the gradients out of place."""
    tape, (*grads, _) = grad.tape, node.saved
    scale = tape.scratch((), "float64", "scale")
    out = []
    for saved, name in zip(grads, _GRADIENTS, strict=False):
        converted = tape.scratch((), "float32", "scale in float32")
        out.append(tape.new(saved.shape, saved.dtype, f"{name}, scaled"))
        del converted
    del scale
    return out
