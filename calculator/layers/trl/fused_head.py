"""TRL's fused LM head: log-probabilities of the labels from tiles of logits, without the logits of all tokens.

Source: trl/trainer/utils.py, add_fused_lm_head, and trl/kernels/chunked_logprob.py, ChunkedLogProbFunction, of TRL 1.15
and 1.16 on CUDA.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from calculator.architecture.dimension import named
from calculator.engine import indexing
from calculator.engine import operations as ops
from calculator.engine.autograd import NodeWithOutputs
from calculator.layers.router_loss import router_loss
from calculator.layers.trl.labels import labeled_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.autograd import Node
    from calculator.engine.tape import Tape, Tensor
    from calculator.layers.context import Context

#: The number of tokens, and of rows of the head, in one tile.
TOKEN_CHUNK_SIZE = 4096
VOCAB_CHUNK_SIZE = 32768

#: The per-token statistics that every call keeps while it runs.
_STATISTICS = ("maximum", "sum of exp", "sum of x · exp", "sum of exp²", "sum of z", "maximum before", "target's logit")


class _Tiles(NamedTuple):
    """The tiles of a call: their dtype, the head's dtype, and the sizes of up to three chunks of tokens and head.

    `bias_dtype` is that of the head's bias, or that of the tiles if there is no bias. `in_float32` is whether the
    backward pass multiplies float32 copies of the tiles.
    """

    dtype: DType
    weight_dtype: DType
    bias_dtype: DType
    width: int
    tokens: tuple[int, ...]
    rows: tuple[int, ...]
    in_float32: bool


#: The outputs of the head in addition to the log-probabilities.
Output = Literal["entropy", "mean_logits", "is_top1"]


@dataclass(frozen=True, slots=True)
class FusedHead:
    """The head that `add_fused_lm_head` puts on a model, with the outputs that its caller requests."""

    outputs: tuple[Output, ...] = ()

    def __call__(self, context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the model's loss and its outputs: log-probabilities, further outputs, the mask, the routers' loss."""
        loss, outputs = _run(context, hidden_states, self.outputs)
        aux_loss = router_loss(context)
        if aux_loss is None:
            return loss, outputs
        context.router_logits = None
        return ops.add(loss, ops.scale(aux_loss, "times the coefficient"), "loss of the model"), [*outputs, aux_loss]

    def allocate_outputs(self, context: Context, prefix: str) -> tuple[Tensor, list[Tensor]]:
        """Allocate what a no-grad call returns, in place of the call. No router has logits.

        `prefix` is that of the names of the pass.
        """
        tape, shape = context.tape, (context.batch, named(context.length - 1, "S - 1"))
        context.set_scope(f"{prefix}loss: ")
        mask = tape.new(shape, "bool", "labeled")
        log_probs = tape.new(shape, "float32", "log-probabilities")
        others = [tape.new(shape, "bool" if name == "is_top1" else "float32", name) for name in self.outputs]
        return tape.new((), "float32", "loss of the model"), [log_probs, *others, mask]


def _run(context: Context, hidden_states: Tensor, wanted: tuple[Output, ...]) -> tuple[Tensor, list[Tensor]]:
    unit = context.hooks.module("head")
    head, hidden_states = unit.read(context.bind(context.model.output), hidden_states)
    context.set_scope("loss: ")
    tape, (batch, length, width) = context.tape, hidden_states.shape
    shape = (batch, named(length - 1, "S - 1"))
    hidden_states = ops.narrow(hidden_states, (*shape, width))
    mask = tape.new(shape, "bool", "labeled")
    count = labeled_tokens(context)
    hidden = indexing.masked_rows(hidden_states, mask, count, "hidden states of labeled tokens")
    targets = tape.new((count,), "int64", "labels")
    tiles = _tiles(context, hidden, head["weight"], head.get("bias"))
    per_token = _log_probs(tiles, hidden, (head["weight"], head.get("bias")), targets, wanted)
    del hidden, targets
    names = ("log-probabilities", *wanted)
    outputs = [indexing.masked_scatter(x, mask, name) for x, name in zip(per_token, names, strict=True)]
    del per_token
    loss = ops.scale(ops.sum_over(outputs[0], (), "log-probabilities, summed"), "loss, negated")
    labels = tape.new((), "int64", "number of labels")
    loss = ops.mul(loss, labels, "loss of the model")
    return loss, [*outputs, mask]


def _log_probs(
    tiles: _Tiles, hidden: Tensor, head: tuple[Tensor, Tensor | None], targets: Tensor, wanted: tuple[Output, ...]
) -> list[Tensor]:
    """Return the log-probabilities and the other requested outputs, tensors of N elements.

    hidden: (N, hidden_size); the head's weight: (vocab_size, hidden_size); its bias: (vocab_size,) or None.
    """
    tape, shape, (weight, bias) = hidden.tape, hidden.shape[:1], head
    statistics = [tape.new(shape, "float32", name) for name in _STATISTICS]
    buffer = _buffer(tape, tiles)
    for tokens in tiles.tokens:
        chunk = _copy(tape, hidden.dtype, tiles.dtype, (tokens, tiles.width), "tokens")
        for rows in tiles.rows:
            _copy(tape, weight.dtype, tiles.dtype, (rows, tiles.width), "head")
    log_z = _sum(tape, shape, "log of the sum", "log Z")
    edges = (hidden.edge, weight.edge, None if bias is None else bias.edge)
    node = NodeWithOutputs(tape, _log_probs_back, edges, tiles, outputs=2) if any(edges) else None
    log_probs = tape.new(shape, "float32", "log-probabilities, packed")
    others = {name: _OTHERS[name](tape, shape) for name in wanted}
    if node is not None:
        for saved in (hidden, weight, *(() if bias is None else (bias,)), targets, log_z, others.get("entropy", log_z)):
            node.save(saved)
        log_probs.edge = node, 0, shape, "float32"
        if "entropy" in others:
            others["entropy"].edge = node, 1, shape, "float32"
    del buffer, statistics, chunk
    return [log_probs, *others.values()]


def _entropy(tape: Tape, shape: Shape) -> Tensor:
    return _sum(tape, shape, "mean of z", "entropy, packed")


def _mean_logits(tape: Tape, shape: Shape) -> Tensor:
    return tape.new(shape, "float32", "mean logits, packed")


def _is_top1(tape: Tape, shape: Shape) -> Tensor:
    flags = [tape.new(shape, "bool", f"is_top1: {side}") for side in ("highest", "first")]
    out = tape.new(shape, "bool", "is_top1, packed")
    del flags
    return out


#: By name, how each further output is computed.
_OTHERS: dict[Output, Callable[[Tape, Shape], Tensor]] = {
    "entropy": _entropy,
    "mean_logits": _mean_logits,
    "is_top1": _is_top1,
}


def _log_probs_back(node: Node, grads: list[Tensor | None]) -> list[Tensor | None]:
    """Recompute the tiles.

    The gradients are summed in float32 and cast at the end, while the last copies are alive.
    """
    tiles, hidden = node.context, node.saved[0]
    tape, parts = hidden.tape, [*zip(node.edges, ("hidden states", "head", "bias"), strict=True)]
    sums = [tape.new(edge[2], "float32", f"{name}: gradient in float32") if edge else None for edge, name in parts]
    buffer = _buffer(tape, tiles)
    weight = None
    for tokens in tiles.tokens:
        chunk = _copy(tape, hidden.dtype, tiles.dtype, (tokens, tiles.width), "tokens")
        for rows in tiles.rows:
            weight = _copy(tape, tiles.weight_dtype, tiles.dtype, (rows, tiles.width), "head")
            _copy(tape, tiles.bias_dtype, tiles.dtype, (rows,), "bias")
            if tiles.in_float32:
                _products_in_float32(tape, tiles.width, tokens, rows, node)
    cast = [
        ops.cast(total, edge[3], f"{name}: gradient") if total is not None and edge else None
        for total, (edge, name) in zip(sums, parts, strict=True)
    ]
    del sums, buffer, chunk, weight, grads
    return cast


def _products_in_float32(tape: Tape, width: int, tokens: int, rows: int, node: Node) -> None:
    """Add a tile's products to the gradients of the hidden states and of the head, from float32 copies of the factors.

    Source: trl/kernels/chunked_logprob.py, _addmm_fp32.
    """
    hidden_edge, weight_edge, _ = node.edges
    for edge, factor, name in ((hidden_edge, rows, "head"), (weight_edge, tokens, "tokens")):
        if edge:
            tile = tape.new((tokens, rows), "float32", "tile of logits in float32")
            copy = tape.new((factor, width), "float32", f"{name} of a tile in float32")
            del tile, copy


def _sum(tape: Tape, shape: Shape, term: str, name: str) -> Tensor:
    """Return a statistic that is the sum of another one and of a term that is computed for it."""
    added = tape.new(shape, "float32", term)
    out = tape.new(shape, "float32", name)
    del added
    return out


def _tiles(context: Context, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> _Tiles:
    region = hidden.tape.autocast
    dtype = hidden.dtype if region is None else region.dtype
    return _Tiles(
        dtype=dtype,
        weight_dtype=weight.dtype,
        bias_dtype=dtype if bias is None else bias.dtype,
        width=hidden.shape[1],
        tokens=_chunks(hidden.shape[0], TOKEN_CHUNK_SIZE),
        rows=_chunks(weight.shape[0], VOCAB_CHUNK_SIZE),
        in_float32=dtype != "float32" and not context.kernels.float32_products,
    )


def _chunks(size: int, chunk: int) -> tuple[int, ...]:
    """Return the sizes of the first two chunks and of the last.

    The copies of the last one live on. Chunks between repeat the second.
    """
    if size <= chunk:
        return (size,)
    if size <= 2 * chunk:
        return chunk, size - chunk
    before = -(-size // chunk) - 1
    return chunk, chunk, size - before * chunk


def _buffer(tape: Tape, tiles: _Tiles) -> Tensor:
    return tape.new((tiles.tokens[0], VOCAB_CHUNK_SIZE), tiles.dtype, "tile of logits")


def _copy(tape: Tape, tensor_dtype: DType, dtype: DType, shape: tuple[int, ...], name: str) -> Tensor | None:
    """Return a chunk's copy in the dtype of the tiles, or None for a view of a tensor that already has that dtype."""
    return None if tensor_dtype == dtype else tape.scratch(shape, dtype, f"{name} of a tile in {dtype}")
