"""Normalisations, with the locals that the real modules hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.step import operations as ops
from calculator.step.autograd import Node

if TYPE_CHECKING:
    from calculator.step.bound import Bound
    from calculator.step.context import Context
    from calculator.step.tape import Tensor


def rms_norm(norm: Bound, x: Tensor) -> Tensor:
    """LlamaRMSNorm: weight · (x normalised in float32, cast back)."""
    x.tape.scope = f"{norm.name}: "
    dtype = x.dtype
    hidden_states = ops.cast(x, "float32", "input in float32")
    variance = ops.mean(ops.unary(hidden_states, "squared", saves="input", temporaries=2), "variance")
    hidden_states = ops.mul(
        hidden_states,
        ops.unary(ops.shift(variance, "variance + eps"), "rsqrt", saves="result", temporaries=2),
        "normalised in float32",
    )
    return ops.mul(norm.own["weight"], ops.cast(hidden_states, dtype, "normalised"), "output")


def offset_rms_norm(norm: Bound, x: Tensor) -> Tensor:
    """GemmaRMSNorm: (1 + weight) · x normalised, all in float32, cast back."""
    x.tape.scope = f"{norm.name}: "
    output = _normalised(ops.cast(x, "float32", "input in float32"))
    weight = ops.cast(norm.own["weight"], "float32", "weight in float32")
    output = ops.mul(output, ops.shift(weight, "1 + weight"), "scaled")
    return ops.cast(output, x.dtype, "output")


def _normalised(x: Tensor) -> Tensor:
    variance = ops.mean(ops.unary(x, "squared", saves="input", temporaries=2), "variance")
    return ops.mul(
        x, ops.unary(ops.shift(variance, "variance + eps"), "rsqrt", saves="result", temporaries=2), "normalised"
    )


def layer_norm(norm: Bound, x: Tensor) -> Tensor:
    """torch.nn.LayerNorm: saves its input and two statistics a row."""
    weight, bias = norm.own.get("weight"), norm.own.get("bias")
    tape = x.tape
    tape.scope = f"{norm.name}: "
    trained = (weight is not None and weight.node) or (bias is not None and bias.node)
    node = Node(tape, _layer_norm_back, (x, weight, bias)) if x.node or trained else None
    statistics = (*x.shape[:-1], 1)
    if node is not None:
        node.save(x)
    out = tape.new(x.shape, x.dtype, "output", node=node)
    kept = [tape.new(statistics, "float32", name) for name in ("mean", "rstd")]
    if node is not None:
        for tensor in kept:
            node.save(tensor)
    return out


def _layer_norm_back(node: Node, grad: Tensor) -> list[Tensor | None]:
    return [grad.tape.new(edge[2], edge[3], "layer norm: gradient") if edge else None for edge in node.edges]


def left(context: Context, hidden_states: Tensor, name: str) -> Tensor:
    """The final LayerNorm of a decoder."""
    return layer_norm(context.outer(name), hidden_states)
