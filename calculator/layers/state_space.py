"""Mamba 2's scan in chunks of the sequence, as transformers runs it without kernel packages.

Source: transformers/models/granitemoehybrid/modeling_granitemoehybrid.py, mamba2_chunk_scan. Shapes: x (batch,
sequence, heads, head size); dt (batch, sequence, heads); B and C (batch, sequence, groups, state size). The scan runs
in float32. Its einsums are products of matrices, whose factors are copied where batches, chunks and heads can't be
merged in a view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.engine import indexing, products, scans
from calculator.engine import operations as ops
from calculator.engine.parameter_views import viewed
from calculator.layers.activation import ACTIVATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.architecture.dimension import Shape
    from calculator.engine.tape import Tensor


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which views of a scan are copies.

    Attributes:
        by_heads: Whether heads follow the positions of several batches or chunks: in B, C and the output.
        by_chunks: Whether several chunks have several heads, whose gradient is ordered by heads.
        copies_chunks: Whether chunks are between batches and heads: in states, and in the input, whose heads precede
            its positions as the convolution leaves them.
        copies_batches: Whether heads follow the chunks of several batches.
        several: Whether there are several chunks.
    """

    by_heads: bool
    by_chunks: bool
    copies_chunks: bool
    copies_batches: bool
    several: bool


def mamba2_chunk_scan(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, dt_bias: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Return the output in float32, (batch, sequence, heads, head size), and the last state."""
    batch, length, heads, width = x.shape
    chunks, several = int(-(-length // chunk)), heads > 1
    layout = _Layout(
        by_heads=several and (chunks > 1 or batch > 1),
        by_chunks=several and chunks > 1,
        copies_chunks=chunks > 1 and (several or batch > 1),
        copies_batches=several and batch > 1,
        several=chunks > 1,
    )
    dt = ops.add(dt, ops.cast(dt_bias, dt.dtype, "dt_bias, cast"), "time step + bias")
    dt = ops.unary(dt, "time step", saves="input", fp32_in_autocast=True)
    dt = indexing.clamp(dt, "time step, clamped")
    x = ops.cast(x, "float32", "input in float32")
    b, c = _by_heads(b, heads, "B"), _by_heads(c, heads, "C")
    padded = (batch, chunks * chunk, heads, width)
    d_residual = ops.mul(viewed(d, (heads, 1)), ops.pad(x, padded, "input, padded"), "D · input")
    step = ops.cast(ops.view(dt, (*dt.shape, 1)), "float32", "time step in float32")
    x = ops.mul(x, step, "input · time step")
    del step
    a = ops.mul(
        ops.cast(a, "float32", "A in float32"), ops.cast(dt, "float32", "time step in float32"), "A · time step"
    )
    named = ((x, "input", layout.several), (a, "A", False), (b, "B", layout.by_chunks), (c, "C", layout.by_chunks))
    x, a, b, c = [_in_chunks(tensor, chunks, chunk, name, back=back) for tensor, name, back in named]
    del named
    by_chunks = (batch, heads, chunks, chunk)
    a = ops.view(a, by_chunks)
    a_cumsum = scans.cumsum(a, "A, summed")
    decay = _exp(_segment_sum(a, "A, summed by segments"))
    square = (batch, chunks, chunk, chunk, heads)
    scores = _product(c, b, square, "C · B", copies=(layout.by_heads, layout.by_heads))
    weights = ops.mul(scores, ops.view(decay, square), "C · B, decayed")
    chunk_output = _product(
        weights, x, x.shape, "output in a chunk", copies=(False, layout.copies_chunks), back=layout.by_heads
    )
    last = ops.slice_from_end(a_cumsum, (*by_chunks[:3], 1))
    decay_states = _exp(ops.subtract(last, a_cumsum, "decay to the chunk's end, log"))
    b_decay = ops.mul(b, ops.view(decay_states, (batch, chunks, chunk, heads, 1)), "B, decayed")
    state = (heads, width, b.shape[-1])
    copies = (layout.copies_chunks, layout.by_heads)
    states = _product(
        x, b_decay, (batch, chunks, *state), "states of chunks", copies=copies, back=layout.copies_chunks, swapped=True
    )
    previous = states.tape.new((batch, 1, *state), states.dtype, "previous states")
    whole = (batch, chunks + 1, *state)
    states = ops.cat((previous, states), whole, "states")
    decay_chunk = _decay_of_chunks(a_cumsum, chunks)
    copied = layout.copies_batches
    new_states = _product(decay_chunk, states, whole, "states, summed", copies=(False, copied), back=copied)
    states = ops.slice_from_end(new_states, (batch, chunks, *state))
    final_state = ops.slice_from_end(new_states, (batch, *state))
    decay_out = _exp(a_cumsum)
    copies = (layout.by_heads, layout.copies_chunks)
    c_states = _product(c, states, x.shape, "C · states", copies=copies, back=layout.by_heads)
    state_output = ops.mul(c_states, ops.view(decay_out, (batch, chunks, chunk, heads, 1)), "output from states")
    output = ops.add(chunk_output, state_output, "output")
    if several:
        output = ops.contiguous(output, "output, contiguous")
    output = ops.add(ops.view(output, padded), d_residual, "output + D · input")
    return ops.narrow(output, (batch, length, heads, width)), final_state


def _by_heads(x: Tensor, heads: int, name: str) -> Tensor:
    """Repeat each group's vectors for its heads, in float32 (repeat_interleave)."""
    x = ops.cast(x, "float32", f"{name} in float32")
    batch, length, groups, width = x.shape
    shape = (batch, length, groups, heads // groups, width)
    expanded = ops.expand(ops.view(x, (batch, length, groups, 1, width)), shape)
    return ops.view(ops.contiguous(expanded, f"{name}, by heads"), (batch, length, heads, width))


def _in_chunks(x: Tensor, chunks: int, chunk: int, name: str, *, back: bool) -> Tensor:
    """Pad the positions and view them in chunks.

    `back`: whether the gradient is copied to merge them again.
    """
    x = ops.pad(x, (x.shape[0], chunks * chunk, *x.shape[2:]), f"{name}, padded")
    shape = (x.shape[0], chunks, chunk, *x.shape[2:])
    return ops.permute(x, shape) if back else ops.view(x, shape)


def _segment_sum(x: Tensor, name: str) -> Tensor:
    """Sum between every two positions.

    A masked copy is made for each of them, summed, and masked again.
    """
    size = x.shape[-1]
    square = (*x.shape, size)
    expanded = ops.expand(ops.view(x, (*x.shape, 1)), square)
    mask = _mask(x, size)
    masked = indexing.masked_fill(expanded, _not(mask), f"{name}: masked")
    total = scans.cumsum(masked, name)
    mask = _mask(x, size)
    return indexing.masked_fill(total, _not(mask), f"{name}, masked")


def _mask(x: Tensor, size: int) -> Tensor:
    ones = x.tape.new((size, size), "bool", "mask of ones")
    mask = x.tape.new((size, size), "bool", "mask of earlier positions")
    del ones
    return mask


def _not(mask: Tensor) -> Tensor:
    return mask.tape.new(mask.shape, "bool", "mask, negated")


def _decay_of_chunks(a_cumsum: Tensor, chunks: int) -> Tensor:
    """Return the decay between the starts of every two chunks."""
    last = ops.slice_from_end(a_cumsum, a_cumsum.shape[:3])
    padded = ops.pad(last, (*last.shape[:2], chunks + 1), "decay of chunks, padded")
    return _exp(_segment_sum(padded, "decay of chunks"))


def _exp(x: Tensor) -> Tensor:
    return ops.unary(x, "exp", saves="result", fp32_in_autocast=True)


def _product(
    left: Tensor,
    right: Tensor,
    shape: Shape,
    name: str,
    *,
    copies: tuple[bool, bool],
    back: bool = False,
    swapped: bool = False,
) -> Tensor:
    """Return torch.einsum of two tensors, which autocast casts, as one product of matrices.

    `back`: whether the gradient is copied for it. `swapped`: whether the left factor is einsum's second operand.
    """
    autocast = left.tape.autocast
    if autocast is not None and swapped:
        right, left = autocast.cast_factors(right, left, (f"{name}: right", f"{name}: left"))
    elif autocast is not None:
        left, right = autocast.cast_factors(left, right, (f"{name}: left", f"{name}: right"))
    _operands = left, right  # keeps them alive until the call returns
    if copies[0]:
        left = ops.contiguous(left, f"{name}: left")
    if copies[1]:
        right = ops.contiguous(right, f"{name}: right")
    out = products.bmm(left, right, shape, name)
    return ops.permute(out, shape) if back else ops.view(out, shape)


def mamba2_state_update(
    x: Tensor,
    dt: Tensor,
    rate: Tensor,
    b: Tensor,
    c: Tensor,
    state: Tensor,
    parameters: Mapping[str, Tensor],
    z: Tensor | None,
) -> Tensor:
    """Return the output of one position after a cached state, (batch, heads, head size), in the input's dtype.

    x: (batch, heads, head size); dt: (batch, heads, 1); b and c: (batch, groups, state size); state: (batch, heads,
    head size, state size), which is changed in place; z: a gate of the output in x's shape, or None. `parameters` has D
    and dt_bias. Source: the same file, mamba2_selective_state_update.
    """
    batch, heads, width = x.shape
    size, dtype = state.shape[3], x.dtype
    bias = ops.expand(ops.view(parameters["dt_bias"], (heads, 1)), (heads, width))
    dt = ops.add(ops.expand(dt, x.shape), ops.cast(bias, dt.dtype, "dt_bias, cast"), "time step + bias")
    dt = ops.unary(dt, "time step", saves="input", fp32_in_autocast=True)
    dt = ops.view(dt, (*x.shape, 1))
    step = ops.cast(dt, "float32", "time step in float32")
    step = ops.mul(step, ops.expand(ops.view(rate, (heads, 1, 1)), state.shape[1:]), "A · time step")
    decay = _exp(step)
    del step
    b = _repeat_groups(b, heads, "B")
    db = ops.mul(dt, ops.view(b, (batch, heads, 1, size)), "B · time step")
    dbx = ops.mul(db, ops.view(x, (*x.shape, 1)), "B · time step · input")
    decayed = ops.mul(state, decay, "state, decayed")
    states = ops.add(decayed, dbx, "state")
    del decayed
    c = _repeat_groups(c, heads, "C")
    states = ops.cast(states, c.dtype, "state in C's dtype")
    rows, column = (batch * heads, width, size), (batch * heads, size, 1)
    out = products.bmm(ops.view(states, rows), ops.view(c, column), (*rows[:2], 1), "C · state")
    out = ops.view(out, x.shape)
    skipped = ops.mul(x, ops.expand(ops.view(parameters["D"], (heads, 1)), (heads, width)), "D · input")
    whole = ops.add(out, skipped, "output with D · input")
    del skipped
    out = ops.cast(whole, out.dtype, "output in C's dtype")
    del whole
    if z is not None:
        out = ops.mul(out, ACTIVATIONS["silu"](z), "output, gated")
    return ops.cast(out, dtype, "output in the input's dtype")


def _repeat_groups(x: Tensor, heads: int, name: str) -> Tensor:
    """Repeat each group for its heads: (batch, groups, state size) to (batch, heads, state size).

    It is not copied if one sequence has one group for each head, because that is contiguous already.
    """
    batch, groups, size = x.shape
    if groups != heads or batch != 1:
        expanded = ops.expand(ops.view(x, (batch, groups, 1, size)), (batch, groups, heads // groups, size))
        x = ops.contiguous(expanded, f"{name} by heads")
    return ops.view(x, (batch, heads, size))
