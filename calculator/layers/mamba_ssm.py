"""Mamba 2's mixer after its first projection, as one function of the package mamba-ssm, with the allocations of its source.

Source: state-spaces/mamba 2.3.2.post1, mamba_ssm/ops/triton/ssd_combined.py, MambaSplitConv1dScanCombinedFn (line 815)
and _mamba_chunk_scan_combined_fwd and _bwd, and the functions that these call: ssd_chunk_state.py, ssd_chunk_scan.py,
ssd_state_passing.py, ssd_bmm.py and layernorm_gated.py; causal_conv1d 1.6.1, causal_conv1d/cpp_functions.py. Neither
pass is in autocast. Without MAMBA_DETERMINISTIC, whose kernels sum in larger buffers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tape

#: Streaming multiprocessors, over which sums are split: those of an A100.
MULTIPROCESSORS = 108

#: The smallest blocks in which kernels sum: positions of a chunk, and numbers of a state.
_POSITIONS, _NUMBERS = 32, 64

#: The bytes of a group of features that the norm's kernel takes, and the features for which it has another warp.
LARGEST_GROUP, _PER_WARP = 65_536, 256

#: What a kernel reads of a projection is aligned to as many elements; a projection of another width is copied.
_ALIGNED = 8


class Inputs(NamedTuple):
    """What the function is called with: the projection, and the parameters of the mixer.

    Attributes:
        rate: -exp(A_log), in float32.
        norm: The weight of the norm behind the gate, if there is one.
    """

    projected: Tensor
    conv: Tensor
    conv_bias: Tensor | None
    dt_bias: Tensor
    rate: Tensor
    d: Tensor
    norm: Tensor | None
    out: Tensor
    out_bias: Tensor | None


class Sizes(NamedTuple):
    """The sizes of a mixer: heads, numbers of each, groups of B and C, numbers of a state, positions of a chunk."""

    heads: int
    head: int
    groups: int
    state: int
    chunk: int


class _Call(NamedTuple):
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
    """What the scan's backward pass returns.

    Attributes:
        x: The gradient of the input, unless the mixer's has it.
        output: The output, computed again, if there is no norm behind the gate.
    """

    rate: Tensor
    d: Tensor
    dt_bias: Tensor
    x: Tensor | None
    output: Tensor | None


def split_conv1d_scan_combined(inputs: Inputs, sizes: Sizes) -> Tensor:
    """Convolve, scan, gate, normalise and project: (batch, sequence, projection) to (batch, sequence, hidden size)."""
    projected = inputs.projected
    tape, dtype = projected.tape, projected.dtype
    call = _sized(projected.shape[:2], sizes)
    edges = tuple([None if each is None else each.edge for each in inputs])
    node = Node(tape, _back, edges, (call, tuple([each is not None for each in inputs]))) if any(edges) else None
    kept = [_convolved(call, projected), *_steps(tape, call)]
    states = tape.scratch(call.states, "float32", "states of chunks in float32")
    kept += _passed(tape, call, dtype)
    del states
    products = tape.scratch(call.by_chunks, "float32", "C · B by chunks")
    scanned = tape.new(call.inner, dtype, "output of the scan")
    gated, root = tape.new(call.inner, dtype, "output before the gate") if inputs.norm is None else scanned, None
    if inputs.norm is None:
        scanned, gated = gated, scanned
    del products
    if inputs.norm is not None:
        gated = tape.scratch(call.inner, dtype, "output, gated and normed")
        batch, length, _ = call.inner
        root = tape.new((batch * length * sizes.groups,), "float32", "reciprocal RMS")
    out = tape.new((*call.inner[:2], inputs.out.shape[0]), dtype, "output of the mixer", node)
    if node is not None:
        for each in (*inputs, scanned, root):
            if each is not None:
                node.save(each)
    del gated, kept
    return out


def chunk_scan_combined(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, dt_bias: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Scan (MambaChunkScanCombinedFn). Returns the output, (batch, sequence, heads, head size), and the last state."""
    inputs = (x, dt, a, b, c, d, dt_bias)
    tape, dtype = x.tape, x.dtype
    _, _, heads, head = x.shape
    call = _sized(x.shape[:2], Sizes(heads, head, b.shape[2], b.shape[3], chunk))
    edges = tuple([each.edge for each in inputs])
    node = Node(tape, _chunk_scan_back, edges, call, outputs=2) if any(edges) else None
    kept = _steps(tape, call)
    summed = kept[1]
    states = tape.scratch(call.states, "float32", "states of chunks in float32")
    before, last = _passed(tape, call, dtype)
    del states
    kept += [before, tape.scratch(call.by_chunks, "float32", "C · B by chunks")]
    out = tape.new(x.shape, dtype, "output of the scan", node)
    del kept, before
    if node is not None:
        for each in (out, x, dt, summed, *inputs[2:]):
            node.save(each)
    return out, Tensor(tape, last.storage, last.shape, last.dtype, node, 1)


def _chunk_scan_back(node: Node, grads: list[Tensor | None]) -> list[Tensor | None]:
    _, x, dt, _, _, b, c, d, dt_bias = node.saved
    tape, call = x.tape, node.context
    batch, _, *sizes = call.states
    last = grads[1] or tape.scratch((batch, *sizes), "float32", "gradient of the last state")
    of_b, of_c = (tape.new(each.shape, each.dtype, "gradient of B or C") for each in (b, c))
    of_dt = tape.new(dt.shape, dt.dtype, "gradient of time steps, in their dtype")
    found = _scan_back(call, x, d.dtype, gated=False, alone=True)
    del last
    of_dt_bias = ops.cast(found.dt_bias, dt_bias.dtype, "gradient of dt_bias, cast")
    result = (found.x and ops.view(found.x, x.shape), of_dt, found.rate, of_b, of_c, found.d, of_dt_bias)
    return [each if edge else None for each, edge in zip(result, node.edges, strict=True)]


def _sized(shape: Shape, sizes: Sizes) -> _Call:
    (batch, length), (heads, head, groups, state, chunk) = shape, sizes
    chunks = -(-length // chunk)
    each = min(-(-int(batch * chunks * heads) // MULTIPROCESSORS), int(heads // groups))
    return _Call(
        sizes=sizes,
        inner=(batch, length, heads * head),
        mixed=(batch, length, heads * head + 2 * groups * state),
        steps=(batch, heads, chunks, chunk),
        states=(batch, chunks, heads, head, state),
        by_chunks=(batch, chunks, groups, chunk, chunk),
        splits=-(-int(heads // groups) // max(each, 1)),
    )


def _aligned_copy(call: _Call, x: Tensor) -> Tensor | None:
    """A part of the projection for the convolution's kernel, if it needs a copy (ensure_stride)."""
    return None if int(x.shape[2]) % _ALIGNED == 0 else x.tape.scratch(call.mixed, x.dtype, "input of the convolution, contiguous")


def _convolved(call: _Call, projected: Tensor) -> Tensor:
    """The convolution and its activation: x, B and C, in both passes."""
    _copy = _aligned_copy(call, projected)
    return projected.tape.scratch(call.mixed, projected.dtype, "convolution")


def _steps(tape: Tape, call: _Call) -> list[Tensor]:
    """Time steps, and their sums with the rates (_chunk_cumsum_fwd)."""
    return [tape.scratch(call.steps, "float32", name) for name in ("time steps", "decay, summed")]


def _passed(tape: Tape, call: _Call, dtype: DType) -> list[Tensor]:
    """The states before the chunks, and the last one (_state_passing_fwd)."""
    batch, _, *sizes = call.states
    before = tape.scratch(call.states, dtype, "states before chunks")
    return [before, tape.scratch((batch, *sizes), "float32", "last state")]


def _back(node: Node, grad: Tensor) -> list[Tensor | None]:
    """Compute every gradient, whether its input needs one or not, from an output that is computed again."""
    call, has = node.context
    saved = iter(node.saved)
    inputs = Inputs(*[next(saved) if each else None for each in has])  # type: ignore[arg-type]
    projected, tape = inputs.projected, grad.tape
    dtype = projected.dtype
    kept = [tape.scratch(call.inner, dtype, "output before the projection"), _convolved(call, projected)]
    of_projected = tape.new(projected.shape, dtype, "gradient of the projection")
    of_mixed = tape.scratch(call.mixed, dtype, "gradient of the convolution's output")
    kept.append(tape.scratch(call.inner, dtype, "gradient before the output's projection"))
    of_norm = None
    if inputs.norm is not None:
        kept.append(tape.scratch(call.inner, dtype, "gradient of the scan's output"))
        of_norm = _of_norm(call, inputs.norm)
    scanned = _scan_back(call, projected, inputs.d.dtype, gated=inputs.norm is None)
    of_out = tape.new(inputs.out.shape, grad.dtype, "weight: gradient")
    of_out.viewed = True  # a view of a product of batches
    of_out_bias = None
    if inputs.out_bias is not None:
        of_out_bias = tape.new(inputs.out_bias.shape, grad.dtype, "bias: gradient")
    _copies = _aligned_copy(call, projected), _aligned_copy(call, projected)
    of_conv, of_conv_bias = _of_filters(inputs)
    of_rate, of_d, of_dt_bias = scanned.rate, scanned.d, scanned.dt_bias
    del kept, of_mixed, scanned, _copies
    of_dt_bias = ops.cast(of_dt_bias, inputs.dt_bias.dtype, "gradient of dt_bias, cast")
    found = (of_projected, of_conv, of_conv_bias, of_dt_bias, of_rate, of_d, of_norm, of_out, of_out_bias)
    return [each if edge else None for each, edge in zip(found, node.edges, strict=True)]


def _of_norm(call: _Call, weight: Tensor) -> Tensor:
    """The norm's gradient: rows for several multiprocessors, their sum, and its cast (_layer_norm_bwd)."""
    tape, width, groups = weight.tape, int(weight.shape[0]), call.sizes.groups
    block = 1 << (width // groups - 1).bit_length()
    warps = min(max(block // _PER_WARP, 1), 8)
    rows = -(-MULTIPROCESSORS * -(-4 // warps) // groups)
    _partial = tape.scratch((rows, width), "float32", "norm: gradient by rows")
    summed = tape.new(weight.shape, "float32", "norm: gradient in float32")
    return ops.cast(summed, weight.dtype, "norm: gradient")


def _of_filters(inputs: Inputs) -> tuple[Tensor, Tensor | None]:
    """The gradients of weight and bias: in float32, then in their dtype (causal_conv1d_bwd_function)."""
    tape = inputs.conv.tape
    weight = tape.new(inputs.conv.shape, "float32", "convolution: gradient in float32")
    bias = inputs.conv_bias
    found = None if bias is None else tape.new(bias.shape, "float32", "convolution: gradient in float32")
    weight = ops.cast(weight, inputs.conv.dtype, "convolution: gradient")
    return weight, found if found is None or bias is None else ops.cast(found, bias.dtype, "convolution: gradient")


def _scan_back(call: _Call, x: Tensor, dtype_of_d: DType, *, gated: bool, alone: bool = False) -> _Grads:
    """_mamba_chunk_scan_combined_bwd; `gated`: whether it computes the gated output again; `alone`: not in a mixer."""
    tape, dtype = x.tape, x.dtype
    batch, heads, chunks, chunk = call.steps
    length = call.inner[1]
    kept = [tape.scratch((batch, length, heads), dtype, "time steps, copied"), *_steps(tape, call)]
    kept.append(tape.scratch(call.by_chunks, "float32", "C · B by chunks"))
    states: Tensor | None = tape.scratch(call.states, "float32", "states of chunks in float32")
    before, last = _passed(tape, call, "float32")
    kept.append(last)
    del states, last
    of_d = recomputed = of_x = None
    if gated:
        partial = _of_d(call, tape)
        recomputed = tape.scratch(call.inner, dtype, "output, gated again")
        kept.append(tape.scratch(call.inner, dtype, "gradient before the gate"))
        of_d = ops.cast(tape.new((heads,), "float32", "gradient of D in float32"), dtype_of_d, "gradient of D")
        del partial
    kept += _of_states(call, before, dtype)
    del before
    partial = _of_d(call, tape)
    if alone:
        of_x = tape.new(call.inner, dtype, "gradient of the scan's input")
    kept.append(tape.scratch(call.steps, "float32", "gradient of time steps"))
    partial = tape.scratch((heads, 1), "float32", "gradient of D by blocks")
    from_x = tape.new((heads,), "float32", "gradient of D in float32")
    del partial
    from_x = ops.cast(from_x, dtype_of_d, "gradient of D")
    kept += _of_products(call, tape)
    of_dt_bias = tape.new((heads,), "float32", "gradient of dt_bias in float32")
    of_rate = tape.new((heads,), "float32", "gradient of A")
    return _Grads(of_rate, from_x if of_d is None else of_d, of_dt_bias, of_x, recomputed)


def _of_products(call: _Call, tape: Tape) -> list[Tensor]:
    """Gradients of B, C, their products and the decay."""
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


def _of_d(call: _Call, tape: Tape) -> Tensor:
    batch, heads, chunks, chunk = call.steps
    return tape.scratch((-(-chunk // _POSITIONS), batch, chunks, heads, 1), "float32", "gradient of D by chunks")


def _of_states(call: _Call, before: Tensor, dtype: DType) -> list[Tensor]:
    """Gradients of the states, and the states in the dtype of the input (_state_passing_bwd)."""
    tape, (batch, chunks, heads, head, state) = before.tape, call.states
    _wide = tape.scratch(call.states, "float32", "gradient of states in float32")
    found = [tape.scratch(call.states, dtype, "gradient of states")]
    found.append(before if dtype == "float32" else tape.scratch(call.states, dtype, "states before chunks, cast"))
    blocks = -(-(head * state) // _NUMBERS)
    _partial = tape.scratch((batch, heads, chunks, blocks), "float32", "gradient of the decay by blocks")
    found.append(tape.scratch((batch, heads, chunks), "float32", "gradient of the decay of chunks"))
    return found


def _summed(tape: Tape, shape: Shape, name: str) -> Tensor:
    """Sums of parts of the heads, and their sum."""
    _partial = tape.scratch(shape, "float32", f"{name} by parts of the heads")
    return tape.scratch((*shape[:2], *shape[3:]), "float32", name)
