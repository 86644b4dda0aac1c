"""The gated delta rule in chunks of the sequence, as transformers runs it without kernel packages.

Source: transformers/models/qwen3_5/modeling_qwen3_5.py, torch_chunk_gated_delta_rule. queries, keys:
(batch, sequence, key heads, key size); values: (batch, sequence, value heads, value size); decay and beta:
(batch, sequence, value heads). The rule runs in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import indexing, products, scans
from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.engine.loops import Loop
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.engine.tape import Tape

#: The number of positions of a chunk.
CHUNK = 64


def chunk_gated_delta_rule(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, *, returns_state: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the output, (batch, sequence, value heads, value size), and the last state or None."""
    dtype, length, heads = query.dtype, query.shape[1], value.shape[2]
    chunks = int(-(-length // CHUNK))
    layout = _Layout(query, heads, chunks)
    query, key, value, beta, decay = _inputs(query, key, value, beta, decay)
    query, key, value = [
        ops.pad(x, (*x.shape[:2], chunks * CHUNK, x.shape[3]), f"{name}, padded")
        for x, name in ((query, "query"), (key, "key"), (value, "value"))
    ]
    beta, decay = [
        ops.pad(x, (*x.shape[:2], chunks * CHUNK), f"{name}, padded") for x, name in ((beta, "beta"), (decay, "decay"))
    ]
    v_beta = ops.mul(value, ops.view(beta, (*beta.shape, 1)), "value · beta")
    k_beta = ops.mul(key, ops.view(beta, (*beta.shape, 1)), "key · beta")
    query, key = _in_chunks(query, chunks), _in_chunks(key, chunks)
    k_beta, v_beta = _in_chunks(k_beta, chunks, copies=True), _in_chunks(v_beta, chunks, copies=True)
    decay = ops.view(decay, (*decay.shape[:2], chunks, CHUNK))
    mask = _later_positions(query.tape)
    cum_decay = scans.cumsum(decay, "decay, summed")
    pairwise = _pairwise(cum_decay, mask)
    square = (*cum_decay.shape, CHUNK)
    system = ops.mul(layout.product_of_all(k_beta, key, square, "key · beta · keys"), pairwise, "system")
    intra = ops.mul(layout.product_of_all(query, key, square, "query · keys"), pairwise, "attention in a chunk")
    decayed_k_beta = ops.mul(k_beta, _over_width(_exp(cum_decay)), "key · beta, decayed")
    new_values = scans.solve_triangular(system, v_beta, "new values")
    k_cumdecay = scans.solve_triangular(system, decayed_k_beta, "keys, decayed")
    state = query.tape.new((*value.shape[:2], query.shape[-1], value.shape[-1]), "float32", "state")
    out = query.tape.new(new_values.shape, "float32", "output by chunks")
    query = ops.mul(query, _over_width(_exp(cum_decay)), "query, decayed")
    key = ops.mul(key, _over_width(_exp(_to_the_end(cum_decay))), "key, decayed")
    chunk_decay = _exp(_selected(cum_decay, cum_decay.shape[:3]))
    chunk_decay = ops.view(chunk_decay, (*chunk_decay.shape, 1, 1))
    loop = Loop(query.tape, chunks)
    for _ in range(loop.interpreted):
        state = loop.begin(state)
        v_prime = products.bmm(_chunk(k_cumdecay), state, (*state.shape[:2], CHUNK, state.shape[3]), "values, read")
        v_new = ops.subtract(_chunk(new_values), v_prime, "values, corrected")
        del v_prime
        inter = products.bmm(layout.chunk(query), state, v_new.shape, "attention to the state")
        out = indexing.copy_slice(out, _output_of_chunk(inter, _chunk(intra), v_new))
        decayed = ops.mul(state, _chunk(chunk_decay), "state, decayed")
        state = ops.add(decayed, products.bmm(layout.chunk(key), v_new, state.shape, "update of the state"), "state")
        del decayed
    last_state = state if returns_state else None
    del state
    core_attn_out = ops.contiguous(out, "output by positions")
    del out
    core_attn_out = ops.view(core_attn_out, (*value.shape[:2], chunks * CHUNK, value.shape[-1]))
    core_attn_out = ops.narrow(core_attn_out, (*core_attn_out.shape[:2], length, core_attn_out.shape[3]))
    shape = (core_attn_out.shape[0], length, heads, core_attn_out.shape[3])
    return ops.cast(ops.view(core_attn_out, shape), dtype, "output in the model's dtype"), last_state


def recurrent_gated_delta_rule(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the output of one position after a cached state, (batch, 1, value heads, value size), and its own state.

    state: (batch, value heads, key size, value size), in float32. Source: torch_recurrent_gated_delta_rule.
    """
    dtype, heads = query.dtype, value.shape[2]
    query, key, value, beta, decay = _inputs(query, key, value, beta, decay)
    out = value.tape.new(value.shape, "float32", "output by positions")
    key_shape, row_shape = (*state.shape[:3], 1), (*state.shape[:2], 1, state.shape[3])
    value_shape = (*state.shape[:2], state.shape[3])
    decay_t = ops.view(_exp(ops.view(decay, state.shape[:2])), (*state.shape[:2], 1, 1))
    state = ops.mul(state, decay_t, "state, decayed")
    q_t, k_t, v_t = ops.view(query, key_shape), ops.view(key, key_shape), ops.view(value, value_shape)
    kv_mem = ops.sum_over(ops.mul(state, k_t, "state · key"), value_shape, "values, read")
    corrected = ops.subtract(v_t, kv_mem, "values, corrected")
    delta = ops.mul(corrected, ops.view(beta, (*state.shape[:2], 1)), "values, corrected · beta")
    del corrected
    update = ops.mul(k_t, ops.view(delta, row_shape), "update of the state")
    state = ops.add(state, update, "state")
    del update
    read = ops.mul(state, q_t, "state · query")
    read = ops.sum_over(read, value_shape, "output of the position")
    out = indexing.copy_slice(out, read)
    del read
    out = ops.view(out, (value.shape[0], 1, heads, value.shape[3]))
    return ops.cast(out, dtype, "output in the model's dtype"), state


def _inputs(query: Tensor, key: Tensor, value: Tensor, beta: Tensor, decay: Tensor) -> list[Tensor]:
    """Return all inputs in float32 with heads before positions.

    Queries and keys are repeated for value heads and normed.
    """
    heads = value.shape[2]
    if key.shape[2] != heads:
        query, key = _repeated(query, heads, "query"), _repeated(key, heads, "key")
    query, key, value, beta, decay = [
        _heads_first(x, name)
        for x, name in ((query, "query"), (key, "key"), (value, "value"), (beta, "beta"), (decay, "decay"))
    ]
    query = _l2norm(query, "query")
    key = _l2norm(key, "key")
    query = ops.scale(query, "query, scaled")
    return [query, key, value, beta, decay]


class _Layout:
    """Which products copy queries and keys, because batches, heads and chunks can't be merged in a view.

    In half precision a cast makes them contiguous. In float32 a padding does. Otherwise they have the layout of the
    repeated heads, (batch, sequence, heads, width), or without repeated heads that of the convolution, (batch, heads,
    width, sequence).
    """

    __slots__ = ("copies_all", "copies_chunks")

    def __init__(self, query: Tensor, heads: int, chunks: int) -> None:
        batch, length, count, _ = query.shape
        strided = query.dtype == "float32" and chunks * CHUNK == length
        repeated = count != heads
        several = (chunks > 1 or batch > 1) and heads > 1 if repeated else chunks > 1 and batch * heads > 1
        self.copies_all = strided and several
        self.copies_chunks = strided and repeated and batch > 1 and heads > 1

    def product_of_all(self, rows: Tensor, columns: Tensor, shape: Shape, name: str) -> Tensor:
        """Multiply rows and columns of all chunks."""
        if self.copies_all:
            rows, columns = ops.contiguous(rows, f"{name}: rows"), ops.contiguous(columns, f"{name}: columns")
        return products.bmm(rows, columns, shape, name)

    def chunk(self, x: Tensor) -> Tensor:
        """Select one chunk of queries or keys."""
        return ops.contiguous(_chunk(x), "chunk, copied") if self.copies_chunks else _chunk(x)


def _repeated(x: Tensor, heads: int, name: str) -> Tensor:
    """Repeat each head for the value heads that it serves (repeat_interleave)."""
    batch, length, count, width = x.shape
    single = ops.view(x, (batch, length, count, 1, width))
    expanded = ops.expand(single, (batch, length, count, heads // count, width))
    return ops.view(ops.contiguous(expanded, f"{name}, repeated"), (batch, length, heads, width))


def _heads_first(x: Tensor, name: str) -> Tensor:
    """Transpose positions and heads, in float32."""
    shape = (x.shape[0], x.shape[2], x.shape[1], *x.shape[3:])
    return ops.cast(ops.view(x, shape), "float32", f"{name} in float32")


def _l2norm(x: Tensor, name: str) -> Tensor:
    total = ops.sum_over(ops.mul(x, x, f"{name} · {name}"), (*x.shape[:-1], 1), f"{name}: squares, summed")
    total = ops.shift(total, f"{name}: squares + epsilon")
    return ops.mul(x, ops.unary(total, f"{name}: inverse norm", saves="result", temporaries=2), f"{name}, normed")


def _in_chunks(x: Tensor, chunks: int, *, copies: bool = False) -> Tensor:
    """View the positions in chunks.

    The gradient of a system's right side has another layout, so it is copied.
    """
    shape = (*x.shape[:2], chunks, CHUNK, x.shape[3])
    if not copies or not x.edge:
        return ops.view(x, shape)
    return Tensor(x.tape, x.storage, shape, x.dtype, Node(x.tape, _copied_back, (x.edge,), x.shape))


def _copied_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(node.context, grad.dtype, "chunks: gradient by positions"),)


def _later_positions(tape: Tape) -> Tensor:
    """Return the mask of a chunk's later positions, which is computed from a mask of ones."""
    whole = tape.new((CHUNK, CHUNK), "bool", "mask of ones")
    mask = tape.new((CHUNK, CHUNK), "bool", "mask of later positions")
    del whole
    return mask


def _pairwise(cum_decay: Tensor, mask: Tensor) -> Tensor:
    """Return the decay between every two positions of a chunk."""
    shape = cum_decay.shape
    rows, columns = ops.view(cum_decay, (*shape, 1)), ops.view(cum_decay, (*shape[:3], 1, shape[3]))
    pairwise = ops.subtract(rows, columns, "pairwise decay, log")
    pairwise = indexing.masked_fill(pairwise, mask, "pairwise decay, log, masked")
    return _exp(pairwise)


def _exp(x: Tensor) -> Tensor:
    return ops.unary(x, "exp", saves="result")


def _over_width(x: Tensor) -> Tensor:
    return ops.view(x, (*x.shape, 1))


def _output_of_chunk(inter: Tensor, intra: Tensor, values: Tensor) -> Tensor:
    """Add the part of a chunk's output that its own positions give to the part that the state gives."""
    within = products.bmm(intra, values, values.shape, "attention in the chunk")
    return ops.add(inter, within, "output of the chunk")


def _to_the_end(cum_decay: Tensor) -> Tensor:
    last = ops.slice_from_end(cum_decay, (*cum_decay.shape[:3], 1))
    return ops.subtract(last, cum_decay, "decay to the chunk's end, log")


def _selected(x: Tensor, shape: Shape) -> Tensor:
    """Return a view of one index of a dimension."""
    return ops.slice_from_end(x, shape)


def _chunk(x: Tensor) -> Tensor:
    return _selected(x, (*x.shape[:2], *x.shape[3:]))
