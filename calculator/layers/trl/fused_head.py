"""TRL's fused LM head: log-probabilities of the labels by tiles of logits, without the logits of all tokens.

Source: trl/trainer/utils.py, add_fused_lm_head, and trl/kernels/chunked_logprob.py, ChunkedLogProbFunction, of TRL 1.15
and 1.16 on CUDA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import named
from calculator.engine import indexing
from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.layers.trl.labels import labelled_tokens

if TYPE_CHECKING:
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tape, Tensor
    from calculator.layers.context import Context

#: The tokens and the rows of the head of one tile.
TOKEN_CHUNK_SIZE = 4096
VOCAB_CHUNK_SIZE = 32768

#: Per-token statistics that every call keeps while it runs.
_STATISTICS = ("maximum", "sum of exp", "sum of x · exp", "sum of exp²", "sum of z", "maximum before", "target's logit")


class _Tiles(NamedTuple):
    """The tiles of a call: their dtype, the head's, and the sizes of the first two chunks of tokens and of the head."""

    dtype: DType
    weight_dtype: DType
    width: int
    tokens: tuple[int, ...]
    rows: tuple[int, ...]


def fused_head(context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the model's loss, and its outputs: log-probabilities, entropy, is_top1 and the mask of labels."""
    head = context.bind(context.model.output)
    context.set_scope("loss: ")
    tape, (batch, length, width) = context.tape, hidden_states.shape
    shape = (batch, named(length - 1, "S - 1"))
    hidden_states = ops.narrow(hidden_states, (*shape, width))
    mask = tape.new(shape, "bool", "labelled")
    count = labelled_tokens(context)
    hidden = indexing.masked_rows(hidden_states, mask, count, "hidden states of labelled tokens")
    targets = tape.new((count,), "int64", "labels")
    per_token = _log_probs(hidden, head.own["weight"], head.own.get("bias"), targets)
    del hidden, targets
    outputs = [indexing.masked_scatter(x, mask, name) for x, name in zip(per_token, _OUTPUTS, strict=True)]
    del per_token
    loss = ops.scale(ops.sum_over(outputs[0], (), "log-probabilities, summed"), "loss, negated")
    labels = tape.new((), "int64", "number of labels")
    loss = ops.mul(loss, labels, "loss of the model")
    return loss, [*outputs, mask]


_OUTPUTS = ("log-probabilities", "entropy", "is_top1")


def _log_probs(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> list[Tensor]:
    """hidden: (N, hidden_size); weight: (vocab_size, hidden_size); returns tensors of N elements."""
    tape, shape = hidden.tape, hidden.shape[:1]
    statistics = [tape.new(shape, "float32", name) for name in _STATISTICS]
    tiles = _tiles(hidden, weight)
    buffer = _buffer(tape, tiles)
    for tokens in tiles.tokens:
        chunk = _copy(tape, hidden.dtype, tiles.dtype, (tokens, tiles.width), "tokens")
        for rows in tiles.rows:
            _copy(tape, weight.dtype, tiles.dtype, (rows, tiles.width), "head")
    log_z = _sum(tape, shape, "log of the sum", "log Z")
    edges = (hidden.edge, weight.edge, None if bias is None else bias.edge)
    node = Node(tape, _log_probs_back, edges, tiles, outputs=2) if any(edges) else None
    log_probs = tape.new(shape, "float32", "log-probabilities, packed")
    entropy = _sum(tape, shape, "mean of z", "entropy, packed")
    flags = [tape.new(shape, "bool", f"is_top1: {side}") for side in ("highest", "first")]
    is_top1 = tape.new(shape, "bool", "is_top1, packed")
    if node is not None:
        for saved in (hidden, targets, log_z, entropy):
            node.save(saved)
        log_probs.edge, entropy.edge = ((node, index, shape, "float32") for index in (0, 1))
    del flags, buffer, statistics, chunk
    return [log_probs, entropy, is_top1]


def _log_probs_back(node: Node, grads: list[Tensor | None]) -> list[Tensor | None]:
    """The tiles again, and gradients that are summed in float32 and cast at the end, while the last copies live."""
    tiles, hidden = node.context, node.saved[0]
    tape, parts = hidden.tape, [*zip(node.edges, ("hidden states", "head", "bias"), strict=True)]
    sums = [tape.new(edge[2], "float32", f"{name}: gradient in float32") if edge else None for edge, name in parts]
    buffer = _buffer(tape, tiles)
    weight = None
    for tokens in tiles.tokens:
        chunk = _copy(tape, hidden.dtype, tiles.dtype, (tokens, tiles.width), "tokens")
        for rows in tiles.rows:
            weight = _copy(tape, tiles.weight_dtype, tiles.dtype, (rows, tiles.width), "head")
    cast = [
        ops.cast(total, edge[3], f"{name}: gradient") if total is not None and edge else None
        for total, (edge, name) in zip(sums, parts, strict=True)
    ]
    del sums, buffer, chunk, weight, grads
    return cast


def _sum(tape: Tape, shape: tuple[int, ...], term: str, name: str) -> Tensor:
    """A statistic that is the sum of another and of a term computed for it."""
    added = tape.new(shape, "float32", term)
    out = tape.new(shape, "float32", name)
    del added
    return out


def _tiles(hidden: Tensor, weight: Tensor) -> _Tiles:
    region = hidden.tape.autocast
    return _Tiles(
        dtype=hidden.dtype if region is None else region.dtype,
        weight_dtype=weight.dtype,
        width=hidden.shape[1],
        tokens=_first_two(hidden.shape[0], TOKEN_CHUNK_SIZE),
        rows=_first_two(weight.shape[0], VOCAB_CHUNK_SIZE),
    )


def _first_two(size: int, chunk: int) -> tuple[int, ...]:
    """The sizes of the first two chunks; no later one is larger than the second."""
    if size <= chunk:
        return (size,)
    rest = size - chunk
    return chunk, min(rest, chunk)


def _buffer(tape: Tape, tiles: _Tiles) -> Tensor:
    return tape.new((tiles.tokens[0], VOCAB_CHUNK_SIZE), tiles.dtype, "tile of logits")


def _copy(tape: Tape, own: DType, dtype: DType, shape: tuple[int, ...], name: str) -> Tensor | None:
    """A chunk's copy in the dtype of the tiles, or None for a view of what has that dtype."""
    return None if own == dtype else tape.scratch(shape, dtype, f"{name} of a tile in {dtype}")
