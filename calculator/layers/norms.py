"""Normalizations, with the local variables of the real modules."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, TypeVar

from calculator.engine import autocast, cuda_layer_norm
from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.engine.module_calls import enter, leave

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule


T = TypeVar("T")


def as_module(forward: Callable[[BoundModule, Tensor], Tensor]) -> Callable[[BoundModule, Tensor], Tensor]:
    """Run the forward of a norm, or of another module, as a marked call."""

    @wraps(forward)
    def call(norm: BoundModule, x: Tensor) -> Tensor:
        if not x.tape.calls_modules:
            return forward(norm, x)
        return leave(norm.name, forward(norm, enter(norm.name, x)))

    return call


@as_module
def rms_norm(norm: BoundModule, x: Tensor) -> Tensor:
    """Run LlamaRMSNorm: weight · (x normalized in float32, cast back)."""
    x.tape.scope = f"{norm.name}: "
    dtype = x.dtype
    hidden_states = ops.cast(x, "float32", "input in float32")
    variance = ops.mean(ops.unary(hidden_states, "squared", saves="input", temporaries=2), "variance")
    hidden_states = ops.mul(
        hidden_states,
        ops.unary(ops.shift(variance, "variance + eps"), "rsqrt", saves="result", temporaries=2),
        "normalized in float32",
    )
    return ops.mul(norm.own["weight"], ops.cast(hidden_states, dtype, "normalized"), "output")


@as_module
def t5_layer_norm(norm: BoundModule, x: Tensor) -> Tensor:
    """Run T5LayerNorm: weight · (x normalized, cast to the weight's dtype if that is half precision)."""
    x.tape.scope = f"{norm.name}: "
    weight = norm.own["weight"]
    squared = ops.unary(ops.cast(x, "float32", "input in float32"), "squared", saves="input", temporaries=2)
    variance = ops.mean(squared, "variance")
    del squared
    root = ops.unary(ops.shift(variance, "variance + eps"), "rsqrt", saves="result", temporaries=2)
    hidden_states = ops.mul(x, root, "normalized in float32")
    del root
    if weight.dtype != "float32":
        hidden_states = ops.cast(hidden_states, weight.dtype, "normalized")
    return ops.mul(weight, hidden_states, "output")


def norm_before_transposition(norm: Callable[[T, Tensor], Tensor], module: T, x: Tensor) -> Tensor:
    """Norm heads, (batch, heads, positions, head_dim), while their positions still come before the heads."""
    batch, heads, length, width = x.shape
    return ops.view(norm(module, ops.view(x, (batch, length, heads, width))), x.shape)


@as_module
def late_cast_rms_norm(norm: BoundModule, x: Tensor) -> Tensor:
    """Run Olmo2RMSNorm: weight · x normalized, all in float32, cast back."""
    x.tape.scope = f"{norm.name}: "
    dtype = x.dtype
    hidden_states = ops.cast(x, "float32", "input in float32")
    variance = ops.mean(ops.unary(hidden_states, "squared", saves="input", temporaries=2), "variance")
    hidden_states = ops.mul(
        hidden_states,
        ops.unary(ops.shift(variance, "variance + eps"), "rsqrt", saves="result", temporaries=2),
        "normalized",
    )
    return ops.cast(ops.mul(norm.own["weight"], hidden_states, "scaled"), dtype, "output")


@as_module
def float32_rms_norm(norm: BoundModule, x: Tensor) -> Tensor:
    """Run NemotronHRMSNorm: the weight in float32 · x normalized, all in float32, cast back."""
    x.tape.scope = f"{norm.name}: "
    hidden_states = ops.cast(x, "float32", "input in float32")
    variance = ops.mean(ops.unary(hidden_states, "squared", saves="input", temporaries=2), "variance")
    root = ops.unary(ops.shift(variance, "variance + eps"), "rsqrt", saves="result", temporaries=2)
    hidden_states = ops.mul(hidden_states, root, "normalized")
    del root
    scaled = ops.mul(ops.cast(norm.own["weight"], "float32", "weight in float32"), hidden_states, "scaled")
    return ops.cast(scaled, x.dtype, "output")


@as_module
def offset_rms_norm(norm: BoundModule, x: Tensor) -> Tensor:
    """Run GemmaRMSNorm: (1 + weight) · x normalized, all in float32, cast back."""
    x.tape.scope = f"{norm.name}: "
    output = _normalized(ops.cast(x, "float32", "input in float32"))
    output = ops.mul(
        output, ops.shift(ops.cast(norm.own["weight"], "float32", "weight in float32"), "1 + weight"), "scaled"
    )
    return ops.cast(output, x.dtype, "output")


@as_module
def scaled_rms_norm(norm: BoundModule, x: Tensor) -> Tensor:
    """Run Llama4TextRMSNorm: x normalized in float32, cast back, then · weight."""
    x.tape.scope = f"{norm.name}: "
    return ops.mul(l2_norm(x), norm.own["weight"], "output")


def l2_norm(x: Tensor) -> Tensor:
    """Run Llama4TextL2Norm: x normalized in float32, cast back. It has no parameters."""
    return ops.cast(_normalized(ops.cast(x, "float32", "input in float32")), x.dtype, "normalized, cast back")


def _normalized(x: Tensor) -> Tensor:
    root = ops.mean(ops.unary(x, "squared", saves="input", temporaries=2), "variance")
    root = ops.shift(root, "variance + eps")
    root = ops.unary(root, "rsqrt", saves="result", temporaries=2)
    return ops.mul(x, root, "normalized")


@as_module
def centered_layer_norm(norm: BoundModule, x: Tensor) -> Tensor:
    """Run CohereLayerNorm: weight · (x - mean) normalized, all in float32, cast back."""
    x.tape.scope = f"{norm.name}: "
    dtype = x.dtype
    hidden_states = ops.cast(x, "float32", "input in float32")
    mean = ops.mean(hidden_states, "mean")
    centered = ops.subtract(hidden_states, mean, "input - mean")
    variance = ops.mean(ops.unary(centered, "squared", saves="input", temporaries=2), "variance")
    del centered
    hidden_states = ops.mul(
        ops.subtract(hidden_states, mean, "input - mean"),
        ops.unary(ops.shift(variance, "variance + eps"), "rsqrt", saves="result", temporaries=2),
        "normalized",
    )
    hidden_states = ops.mul(ops.cast(norm.own["weight"], "float32", "weight in float32"), hidden_states, "scaled")
    return ops.cast(hidden_states, dtype, "output")


@as_module
def offset_layer_norm(norm: BoundModule, x: Tensor) -> Tensor:
    """Run NemotronLayerNorm1P: torch's layer norm with 1 + weight, in the lower precision under autocast."""
    tape = x.tape
    tape.scope = f"{norm.name}: "
    weight, bias = ops.shift(norm.own["weight"], "1 + weight"), norm.own["bias"]
    if tape.autocast is None:
        return functional_layer_norm(x, weight, bias)
    dtype = tape.autocast.dtype
    x, weight, bias = (
        ops.cast(x, dtype, "input, cast"),
        ops.cast(weight, dtype, "weight"),
        ops.cast(bias, dtype, "bias"),
    )
    with autocast.region(tape, None):
        return functional_layer_norm(x, weight, bias)


@as_module
def layer_norm(norm: BoundModule, x: Tensor) -> Tensor:
    """Run torch.nn.LayerNorm."""
    x.tape.scope = f"{norm.name}: "
    return functional_layer_norm(x, norm.own.get("weight"), norm.own.get("bias"))


@as_module
def transposed_layer_norm(norm: BoundModule, x: Tensor) -> Tensor:
    """Run torch.nn.LayerNorm on an input in another layout. Its kernel and its backward kernel copy their inputs."""
    x.tape.scope = f"{norm.name}: "
    return functional_layer_norm(x, norm.own.get("weight"), norm.own.get("bias"), copies=True)


def functional_layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *, copies: bool = False) -> Tensor:
    """Run torch.nn.functional.layer_norm. It saves its input, its parameters and two statistics for each row.

    They are saved in the order of their names: bias, input, weight (tools/autograd/gen_variable_type.py). `copies`:
    whether the input has another layout (ATen/native/cuda/layer_norm_kernel.cu).
    """
    tape = x.tape
    if tape.autocast is not None:
        bias = None if bias is None else autocast.cast_to(bias, "float32", "bias")
        weight = None if weight is None else autocast.cast_to(weight, "float32", "weight")
        x = autocast.cast_to(x, "float32", "input")
    edges = (x.edge, None if weight is None else weight.edge, None if bias is None else bias.edge)
    node = Node(tape, _layer_norm_back, edges, (copies, bias is not None)) if any(edges) else None
    statistics = (*x.shape[:-1], 1)
    if node is not None:
        for saved in (bias, x, weight):
            if saved is not None:
                node.save(saved)
    copied = tape.scratch(x.shape, x.dtype, "input, contiguous") if copies else None
    out = tape.new(x.shape, x.dtype, "output", node)
    kept = [tape.new(statistics, "float32", name) for name in ("mean", "rstd")]
    if node is not None:
        for tensor in kept:
            node.save(tensor)
    del copied
    return out


def _layer_norm_back(node: Node, grad: Tensor) -> list[Tensor | None]:
    copies, has_bias = node.context
    x = node.saved[has_bias]
    _copied = x.tape.scratch(x.shape, x.dtype, "input, contiguous") if copies else None
    grads = [grad.tape.new(edge[2], edge[3], "layer norm: gradient") if edge else None for edge in node.edges]
    if grad.tape.cuda:
        cuda_layer_norm.sum_gradients(x, grads[1:])
    return grads
