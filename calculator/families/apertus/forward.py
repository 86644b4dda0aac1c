"""Apertus: normalized queries and keys, and a plain MLP with a learned activation (xIELU, Huang 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import selection
from calculator.layers import mlp, norms
from calculator.layers.decoder_forward import DecoderForward
from calculator.layers.decoder_layer import SequentialLayer
from calculator.layers.self_attention import SelfAttention, norm_after_projections

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def _activation(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    """Run XIELUActivation without its CUDA extension, as separate operations (transformers/activations.py)."""
    if "mlp.act_fn" not in modules:
        return mlp.configured(context, modules, x)
    context.set_scope(f"{modules.prefix}mlp.act_fn: ")
    return _xielu(modules["mlp.act_fn"], x)


@norms.as_module
def _xielu(activation: BoundModule, x: Tensor) -> Tensor:
    parameters = activation.own
    alpha_p = _softplus(parameters["alpha_p"], "alpha_p")
    alpha_n = ops.shift(_softplus(parameters["alpha_n"], "alpha_n"), "beta + alpha_n")
    positive = x.tape.new(x.shape, "bool", "above 0")
    return selection.where(positive, _convex(x, alpha_p), _concave(x, alpha_n), "output")


def _softplus(alpha: Tensor, name: str) -> Tensor:
    return ops.unary(alpha, f"{name}, softplus", saves="input", fp32_in_autocast=True)


def _convex(x: Tensor, alpha_p: Tensor) -> Tensor:
    """Return alpha_p · x · x + beta · x."""
    squared = ops.mul(ops.mul(alpha_p, x, "alpha_p · x"), x, "alpha_p · x · x")
    return ops.add(squared, ops.scale(x, "beta · x"), "positive part")


def _concave(x: Tensor, alpha_n: Tensor) -> Tensor:
    """Return (expm1(min(x, eps)) - x) · alpha_n + beta · x."""
    product = ops.mul(ops.subtract(_exponential(x), x, "expm1 - x"), alpha_n, "· alpha_n")
    return ops.add(product, ops.scale(x, "beta · x"), "negative part")


def _exponential(x: Tensor) -> Tensor:
    return ops.unary(selection.minimum(x, "min(x, eps)"), "expm1", saves="result", temporaries=1, fp32_in_autocast=True)


APERTUS = DecoderForward(
    layer=SequentialLayer(
        attention=SelfAttention(project=norm_after_projections(norms.rms_norm)),
        mlp=mlp.plain("mlp.up_proj", "mlp.down_proj", act=_activation),
        input_norms=("attention_layernorm", "feedforward_layernorm"),
    ),
)
