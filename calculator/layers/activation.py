"""Activation functions of `transformers.activations`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import indexing
from calculator.engine import operations as ops
from calculator.engine.module_calls import enter, leave

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.engine.tape import Tensor


def _fused(x: Tensor) -> Tensor:
    return ops.unary(x, "activation", saves="input")


def _from_result(x: Tensor) -> Tensor:
    return ops.unary(x, "activation", saves="result")


def _identity(x: Tensor) -> Tensor:
    return x


def _clipped_gelu(x: Tensor) -> Tensor:
    return indexing.clamp(ops.unary(x, "gelu", saves="input"), "activation")


def _relu_squared(x: Tensor) -> Tensor:
    relu = ops.unary(x, "relu", saves="result")
    return ops.unary(relu, "activation", saves="input", temporaries=2, fp32_in_autocast=True)


def _quick_gelu(x: Tensor) -> Tensor:
    return ops.mul(x, ops.unary(ops.scale(x, "1.702 · x"), "sigmoid", saves="result"), "activation")


def _root_of_softplus(x: Tensor) -> Tensor:
    softplus = ops.unary(x, "softplus", saves="input", fp32_in_autocast=True)
    return ops.unary(softplus, "activation", saves="result", temporaries=1)


def _laplace(x: Tensor) -> Tensor:
    """Return 0.5 · (1 + erf((x - mu) / (sigma · √2)))."""
    scaled = ops.scale(ops.shift(x, "x - mu"), "x - mu, scaled")
    return ops.scale(ops.shift(_erf(scaled), "1 + erf"), "activation")


def _erf(x: Tensor) -> Tensor:
    return ops.unary(x, "erf", saves="input", temporaries=4)


def _gelu_by_erf(x: Tensor) -> Tensor:
    """Return 0.5 · x · (1 + erf(x / √2)), computed one operation at a time."""
    return ops.mul(ops.scale(x, "half of x"), ops.shift(_erf(ops.scale(x, "x / √2")), "1 + erf"), "activation")


def _gelu_by_tanh(x: Tensor) -> Tensor:
    """Return 0.5 · x · (1 + tanh(√(2/π) · (x + 0.044715 · x³))), computed without local variables."""
    return ops.mul(ops.scale(x, "half of x"), ops.shift(_tanh_of_polynomial(x), "1 + tanh"), "activation")


def _tanh_of_polynomial(x: Tensor) -> Tensor:
    return ops.unary(ops.scale(_polynomial(x), "inner sum, scaled"), "tanh", saves="result")


def _polynomial(x: Tensor) -> Tensor:
    cubed = ops.scale(ops.unary(x, "cubed", saves="input", temporaries=2, fp32_in_autocast=True), "cubed, scaled")
    return ops.add(x, cubed, "inner sum")


def _fast_gelu(x: Tensor) -> Tensor:
    """Return 0.5 · x · (1 + tanh(x · √(2/π) · (1 + 0.044715 · x · x))), computed one operation at a time."""
    return ops.mul(ops.scale(x, "half of x"), ops.shift(_tanh_of_product(x), "1 + tanh"), "activation")


def _tanh_of_product(x: Tensor) -> Tensor:
    return ops.unary(ops.mul(ops.scale(x, "x, scaled"), _one_more(x), "inner product"), "tanh", saves="result")


def _one_more(x: Tensor) -> Tensor:
    return ops.shift(ops.mul(ops.scale(x, "0.044715 · x"), x, "0.044715 · x · x"), "1 + 0.044715 · x · x")


#: Activations without parameters, by their name in `config.json`. Source: transformers.activations.ACT2CLS.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": _fused,
    "gelu_10": _clipped_gelu,
    "gelu_accurate": _gelu_by_tanh,
    "gelu_fast": _fast_gelu,
    "gelu_new": _gelu_by_tanh,
    "gelu_python": _gelu_by_erf,
    "gelu_python_tanh": _gelu_by_tanh,
    "gelu_pytorch_tanh": _fused,
    "hardswish": _fused,
    "laplace": _laplace,
    "leaky_relu": _fused,
    "linear": _identity,
    "mish": _fused,
    "quick_gelu": _quick_gelu,
    "relu": _from_result,
    "relu2": _relu_squared,
    "relu6": _fused,
    "sigmoid": _from_result,
    "silu": _fused,
    "sqrtsoftplus": _root_of_softplus,
    "swish": _fused,
    "tanh": _from_result,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return the activation function with a name. It is a module in transformers."""
    function = ACTIVATIONS[name]

    def call(x: Tensor) -> Tensor:
        if not x.tape.calls_modules:
            return function(x)
        path = f"{x.tape.scope}act_fn"
        return leave(path, function(enter(path, x)))

    return call
