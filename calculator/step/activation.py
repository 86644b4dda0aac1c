"""Activation functions as `transformers.activations` writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.errors import refusal
from calculator.step import operations as ops

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.step.tape import Tensor


def _fused(x: Tensor) -> Tensor:
    return ops.unary(x, "activation", saves="input")


def _from_result(x: Tensor) -> Tensor:
    return ops.unary(x, "activation", saves="result")


def _relu_squared(x: Tensor) -> Tensor:
    relu = ops.unary(x, "relu", saves="result")
    return ops.unary(relu, "activation", saves="input", temporaries=2, delicate=True)


def _new_gelu(x: Tensor) -> Tensor:
    """0.5 · x · (1 + tanh(√(2/π) · (x + 0.044715 · x³))), one operation at a time; nothing has a name."""
    return ops.mul(ops.scale(x, "half of x"), ops.shift(_tanh_of_polynomial(x), "1 + tanh"), "activation")


def _tanh_of_polynomial(x: Tensor) -> Tensor:
    return ops.unary(ops.scale(_polynomial(x), "inner sum, scaled"), "tanh", saves="result")


def _polynomial(x: Tensor) -> Tensor:
    cubed = ops.scale(ops.unary(x, "cubed", saves="input", temporaries=2, delicate=True), "cubed, scaled")
    return ops.add(x, cubed, "inner sum")


#: By the name that `config.json` gives. Source: transformers.activations.ACT2CLS.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": _fused,
    "gelu_new": _new_gelu,
    "gelu_pytorch_tanh": _fused,
    "relu": _from_result,
    "relu2": _relu_squared,
    "silu": _fused,
    "swish": _fused,
    "tanh": _from_result,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function of that name."""
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise refusal(
            "model.config.hidden_act", f"the memory of this activation is not modelled; known are {known}", name
        )
    return ACTIVATIONS[name]
