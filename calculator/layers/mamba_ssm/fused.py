"""Mamba 2's mixer after its first projection, as one function of mamba-ssm, with the allocations of its source.

Source: state-spaces/mamba 2.3.2.post1, mamba_ssm/ops/triton/ssd_combined.py, MambaSplitConv1dScanCombinedFn (line 815);
layernorm_gated.py, _layer_norm_fwd (line 108) and _layer_norm_bwd (line 271); causal_conv1d 1.6.1,
causal_conv1d/cpp_functions.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.layers.mamba_ssm.scan import MULTIPROCESSORS, Call, Sizes, passed, scan_back, sized, steps

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor

#: The maximum number of bytes of a group that the norm's kernel accepts.
LARGEST_GROUP = 65_536

#: The number of features for which the norm's kernel has another warp.
_PER_WARP = 256

#: The number of elements to which kernels align their reads of a projection. A projection of another width is copied.
_ALIGNED = 8


class Inputs(NamedTuple):
    """The arguments of the function: the projection, and the parameters of the mixer.

    Attributes:
        rate: -exp(A_log), in float32.
        norm: The weight of the norm after the gate, if there is one.
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


def split_conv1d_scan_combined(inputs: Inputs, sizes: Sizes) -> Tensor:
    """Convolve, scan, gate, normalize and project: (batch, sequence, projection) to (batch, sequence, hidden size)."""
    projected = inputs.projected
    tape, dtype = projected.tape, projected.dtype
    call = sized(projected.shape[:2], sizes)
    edges = tuple([None if tensor is None else tensor.edge for tensor in inputs])
    node = Node(tape, _back, edges, (call, tuple([tensor is not None for tensor in inputs]))) if any(edges) else None
    kept = [_convolved(call, projected), *steps(tape, call)]
    states = tape.scratch(call.states, "float32", "states of chunks in float32")
    kept += passed(tape, call, dtype)
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
        for tensor in (*inputs, scanned, root):
            if tensor is not None:
                node.save(tensor)
    del gated, kept
    return out


def _aligned_copy(call: Call, x: Tensor) -> Tensor | None:
    """Return a copy of the projection's part for the convolution's kernel, if it needs a copy (ensure_stride)."""
    return (
        None
        if int(x.shape[2]) % _ALIGNED == 0
        else x.tape.scratch(call.mixed, x.dtype, "input of the convolution, contiguous")
    )


def _convolved(call: Call, projected: Tensor) -> Tensor:
    """Return the output of the convolution and its activation: x, B and C. Both passes compute it."""
    _copy = _aligned_copy(call, projected)
    return projected.tape.scratch(call.mixed, projected.dtype, "convolution")


def _back(node: Node, grad: Tensor) -> list[Tensor | None]:
    """Compute every gradient, whether its input needs one or not.

    The output is recomputed.
    """
    call, given = node.context
    saved = iter(node.saved)
    inputs = Inputs(*[next(saved) if is_given else None for is_given in given])  # type: ignore[arg-type]
    projected, tape = inputs.projected, grad.tape
    dtype = projected.dtype
    kept = [tape.scratch(call.inner, dtype, "output before the projection"), _convolved(call, projected)]
    projected_grad = tape.new(projected.shape, dtype, "gradient of the projection")
    mixed_grad = tape.scratch(call.mixed, dtype, "gradient of the convolution's output")
    kept.append(tape.scratch(call.inner, dtype, "gradient before the output's projection"))
    norm_grad = None
    if inputs.norm is not None:
        kept.append(tape.scratch(call.inner, dtype, "gradient of the scan's output"))
        norm_grad = _norm_gradient(call, inputs.norm)
    scanned = scan_back(call, projected, inputs.d.dtype, gated=inputs.norm is None)
    out_grad = tape.new(inputs.out.shape, grad.dtype, "weight: gradient")
    out_grad.viewed = True  # a view of a product of batches
    out_bias_grad = None
    if inputs.out_bias is not None:
        out_bias_grad = tape.new(inputs.out_bias.shape, grad.dtype, "bias: gradient")
    _copies = _aligned_copy(call, projected), _aligned_copy(call, projected)
    conv_grad, conv_bias_grad = _convolution_gradients(inputs)
    rate_grad, d_grad, dt_bias_grad = scanned.rate, scanned.d, scanned.dt_bias
    del kept, mixed_grad, scanned, _copies
    dt_bias_grad = ops.cast(dt_bias_grad, inputs.dt_bias.dtype, "gradient of dt_bias, cast")
    input_grads = (
        projected_grad,
        conv_grad,
        conv_bias_grad,
        dt_bias_grad,
        rate_grad,
        d_grad,
        norm_grad,
        out_grad,
        out_bias_grad,
    )
    return [gradient if edge else None for gradient, edge in zip(input_grads, node.edges, strict=True)]


def _norm_gradient(call: Call, weight: Tensor) -> Tensor:
    """Return the norm's gradient: rows for several multiprocessors, their sum, and its cast (_layer_norm_bwd)."""
    tape, width, groups = weight.tape, int(weight.shape[0]), call.sizes.groups
    block = 1 << (width // groups - 1).bit_length()
    warps = min(max(block // _PER_WARP, 1), 8)
    rows = -(-MULTIPROCESSORS * -(-4 // warps) // groups)
    _partial = tape.scratch((rows, width), "float32", "norm: gradient by rows")
    summed = tape.new(weight.shape, "float32", "norm: gradient in float32")
    return ops.cast(summed, weight.dtype, "norm: gradient")


def _convolution_gradients(inputs: Inputs) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of weight and bias: in float32, then in their dtype (causal_conv1d_bwd_function)."""
    tape = inputs.conv.tape
    weight_grad = tape.new(inputs.conv.shape, "float32", "convolution: gradient in float32")
    bias = inputs.conv_bias
    bias_grad = None if bias is None else tape.new(bias.shape, "float32", "convolution: gradient in float32")
    weight_grad = ops.cast(weight_grad, inputs.conv.dtype, "convolution: gradient")
    return weight_grad, bias_grad if bias_grad is None or bias is None else ops.cast(
        bias_grad, bias.dtype, "convolution: gradient"
    )
