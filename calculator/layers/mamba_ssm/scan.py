"""Mamba 2's scan in the package mamba-ssm, with the allocations of its source.

Source: state-spaces/mamba 2.3.2.post1, mamba_ssm/ops/triton/ssd_combined.py, _mamba_chunk_scan_combined_fwd and _bwd
(from line 343) and MambaChunkScanCombinedFn (line 593), and the functions that these call: ssd_chunk_state.py,
ssd_chunk_scan.py, ssd_state_passing.py and ssd_bmm.py. Without MAMBA_DETERMINISTIC, whose kernels sum in larger
buffers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.engine import operations as ops
from calculator.engine.autograd import NodeWithOutputs
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.autograd import Node
    from calculator.engine.tape import Tape

#: The number of streaming multiprocessors of an A100, over which sums are split.
MULTIPROCESSORS = 108

#: The smallest blocks in which kernels sum: positions of a chunk, and elements of a state.
_POSITIONS, _NUMBERS = 32, 64


class Sizes(NamedTuple):
    """The sizes of a mixer: heads, elements of each, groups of B and C, elements of a state, positions of a chunk."""

    heads: int
    head: int
    groups: int
    state: int
    chunk: int


class Call(NamedTuple):
    """The shapes of a call, and the inputs that it saves.

    Attributes:
        inner: The scan's input and output: (batch, sequence, heads · head size).
        mixed: The convolution's: (batch, sequence, channels).
        steps: (batch, heads, chunks, chunk).
        states: (batch, chunks, heads, head size, state size).
        by_chunks: (batch, chunks, groups, chunk, chunk).
        splits: The parts of a group's heads, each of which has sums of its own.
    """

    sizes: Sizes
    inner: Shape
    mixed: Shape
    steps: Shape
    states: Shape
    by_chunks: Shape
    splits: int


class _Grads(NamedTuple):
    """The results of the scan's backward pass.

    Attributes:
        x: The gradient of the input, unless the mixer's has it.
        output: The output, computed again, if there is no norm after the gate.
    """

    rate: Tensor
    d: Tensor
    dt_bias: Tensor
    x: Tensor | None
    output: Tensor | None


def chunk_scan_combined(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, dt_bias: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Run the scan (MambaChunkScanCombinedFn).

    Return the output, (batch, sequence, heads, head size), and the last state.
    """
    inputs = (x, dt, a, b, c, d, dt_bias)
    tape, dtype = x.tape, x.dtype
    _, _, heads, head = x.shape
    call = sized(x.shape[:2], Sizes(heads, head, b.shape[2], b.shape[3], chunk))
    edges = tuple([tensor.edge for tensor in inputs])
    node = NodeWithOutputs(tape, _chunk_scan_back, edges, call, outputs=2) if any(edges) else None
    kept = steps(tape, call)
    summed = kept[1]
    states = tape.scratch(call.states, "float32", "states of chunks in float32")
    before, last = passed(tape, call, dtype)
    del states
    kept += [before, tape.scratch(call.by_chunks, "float32", "C · B by chunks")]
    out = tape.new(x.shape, dtype, "output of the scan", node)
    del kept, before
    if node is not None:
        for tensor in (out, x, dt, summed, *inputs[2:]):
            node.save(tensor)
    return out, Tensor(tape, last.storage, last.shape, last.dtype, node, 1)


def _chunk_scan_back(node: Node, grads: list[Tensor | None]) -> list[Tensor | None]:
    _, x, dt, _, _, b, c, d, dt_bias = node.saved
    tape, call = x.tape, node.context
    batch, _, *sizes = call.states
    last = grads[1] or tape.scratch((batch, *sizes), "float32", "gradient of the last state")
    b_grad, c_grad = (tape.new(tensor.shape, tensor.dtype, "gradient of B or C") for tensor in (b, c))
    dt_grad = tape.new(dt.shape, dt.dtype, "gradient of time steps, in their dtype")
    scan_grads = scan_back(call, x, d.dtype, gated=False, alone=True)
    del last
    dt_bias_grad = ops.cast(scan_grads.dt_bias, dt_bias.dtype, "gradient of dt_bias, cast")
    result = (
        scan_grads.x and ops.view(scan_grads.x, x.shape),
        dt_grad,
        scan_grads.rate,
        b_grad,
        c_grad,
        scan_grads.d,
        dt_bias_grad,
    )
    return [gradient if edge else None for gradient, edge in zip(result, node.edges, strict=True)]


def sized(shape: Shape, sizes: Sizes) -> Call:
    """Return the shapes of a call for (batch, sequence)."""
    (batch, length), (heads, head, groups, state, chunk) = shape, sizes
    chunks = -(-length // chunk)
    chunks_at_once = min(-(-int(batch * chunks * heads) // MULTIPROCESSORS), int(heads // groups))
    return Call(
        sizes=sizes,
        inner=(batch, length, heads * head),
        mixed=(batch, length, heads * head + 2 * groups * state),
        steps=(batch, heads, chunks, chunk),
        states=(batch, chunks, heads, head, state),
        by_chunks=(batch, chunks, groups, chunk, chunk),
        splits=-(-int(heads // groups) // max(chunks_at_once, 1)),
    )


def steps(tape: Tape, call: Call) -> list[Tensor]:
    """Return the time steps, and their sums with the rates (_chunk_cumsum_fwd)."""
    return [tape.scratch(call.steps, "float32", name) for name in ("time steps", "decay, summed")]


def passed(tape: Tape, call: Call, dtype: DType) -> list[Tensor]:
    """Return the states before the chunks, and the last state (_state_passing_fwd)."""
    batch, _, *sizes = call.states
    before = tape.scratch(call.states, dtype, "states before chunks")
    return [before, tape.scratch((batch, *sizes), "float32", "last state")]


def scan_back(call: Call, x: Tensor, dtype_of_d: DType, *, gated: bool, alone: bool = False) -> _Grads:
    """Run _mamba_chunk_scan_combined_bwd.

    `gated`: whether it recomputes the gated output. `alone`: whether it runs outside a mixer.
    """
    tape, dtype = x.tape, x.dtype
    batch, heads, *_ = call.steps
    length = call.inner[1]
    kept = [tape.scratch((batch, length, heads), dtype, "time steps, copied"), *steps(tape, call)]
    kept.append(tape.scratch(call.by_chunks, "float32", "C · B by chunks"))
    states: Tensor | None = tape.scratch(call.states, "float32", "states of chunks in float32")
    before, last = passed(tape, call, "float32")
    kept.append(last)
    del states, last
    d_grad = recomputed = x_grad = None
    if gated:
        partial = _d_gradient(call, tape)
        recomputed = tape.scratch(call.inner, dtype, "output, gated again")
        kept.append(tape.scratch(call.inner, dtype, "gradient before the gate"))
        d_grad = ops.cast(tape.new((heads,), "float32", "gradient of D in float32"), dtype_of_d, "gradient of D")
        del partial
    kept += _state_gradients(call, before, dtype)
    del before
    partial = _d_gradient(call, tape)
    if alone:
        x_grad = tape.new(call.inner, dtype, "gradient of the scan's input")
    kept.append(tape.scratch(call.steps, "float32", "gradient of time steps"))
    partial = tape.scratch((heads, 1), "float32", "gradient of D by blocks")
    from_x = tape.new((heads,), "float32", "gradient of D in float32")
    del partial
    from_x = ops.cast(from_x, dtype_of_d, "gradient of D")
    kept += _product_gradients(call, tape)
    dt_bias_grad = tape.new((heads,), "float32", "gradient of dt_bias in float32")
    rate_grad = tape.new((heads,), "float32", "gradient of A")
    return _Grads(rate_grad, from_x if d_grad is None else d_grad, dt_bias_grad, x_grad, recomputed)


def _product_gradients(call: Call, tape: Tape) -> list[Tensor]:
    """Return the gradients of B, C, their products and the decay."""
    batch, heads, chunks, chunk = call.steps
    shared = (batch, call.inner[1], call.splits, call.sizes.groups, call.sizes.state)
    kept = []
    for name in ("B", "C"):
        kept.append(tape.scratch(call.steps, "float32", f"gradient of the decay by {name}"))
        kept.append(_summed(tape, shared, f"gradient of {name}"))
    by_chunks = call.by_chunks
    kept.append(_summed(tape, (*by_chunks[:2], call.splits, *by_chunks[2:]), "gradient of C · B"))
    flipped = tape.scratch(call.steps, "float32", "gradient of the decay, flipped")
    flipped = tape.scratch(call.steps, "float32", "gradient of the decay, summed")
    flipped = tape.scratch(call.steps, "float32", "gradient of the decay, flipped back")
    blocks = -(-chunk // _POSITIONS)
    partial = tape.scratch((batch, heads, chunks, blocks, chunk), "float32", "gradient of the decay by blocks")
    kept += [flipped, tape.scratch(call.steps, "float32", "gradient of the decay")]
    del partial
    tape.scratch(call.steps, "float32", "gradient of the decay, sum of two")
    return kept


def _d_gradient(call: Call, tape: Tape) -> Tensor:
    batch, heads, chunks, chunk = call.steps
    return tape.scratch((-(-chunk // _POSITIONS), batch, chunks, heads, 1), "float32", "gradient of D by chunks")


def _state_gradients(call: Call, before: Tensor, dtype: DType) -> list[Tensor]:
    """Return the gradients of the states, and the states in the dtype of the input (_state_passing_bwd)."""
    tape, (batch, chunks, heads, head, state) = before.tape, call.states
    _wide = tape.scratch(call.states, "float32", "gradient of states in float32")
    gradients = [tape.scratch(call.states, dtype, "gradient of states")]
    gradients.append(before if dtype == "float32" else tape.scratch(call.states, dtype, "states before chunks, cast"))
    blocks = -(-(head * state) // _NUMBERS)
    _partial = tape.scratch((batch, heads, chunks, blocks), "float32", "gradient of the decay by blocks")
    gradients.append(tape.scratch((batch, heads, chunks), "float32", "gradient of the decay of chunks"))
    return gradients


def _summed(tape: Tape, shape: Shape, name: str) -> Tensor:
    """Return sums over parts of the heads, and their sum."""
    _partial = tape.scratch(shape, "float32", f"{name} by parts of the heads")
    return tape.scratch((*shape[:2], *shape[3:]), "float32", name)
