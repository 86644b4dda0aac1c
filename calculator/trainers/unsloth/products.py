"""Products with a weight and its update, as Unsloth's autograd functions compute them.

Source: unsloth/kernels/utils.py, matmul_lora and fast_dequantize.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import four_bit
from calculator.resident.quantization import Quantization

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule

#: The names of a module's factors A and B.
FACTORS = ("lora_A.weight", "lora_B.weight")


def is_fused(bound: BoundModule) -> bool:
    """Return whether a module has the two factors of an update and no bias."""
    return all(name in bound.added for name in FACTORS) and "bias" not in bound.own


def product(x: Tensor, bound: BoundModule, *, in_buffer: bool = True) -> Tensor:
    """Return x · W + x · A · B under no_grad.

    `in_buffer`: whether a 4-bit weight is dequantized into a buffer of the process.
    """
    dense = None if in_buffer else dequantized(x, bound)
    out = x.tape.new((*x.shape[:-1], bound.module.out_features), x.dtype, "output")
    del dense
    add_update(x, bound)
    return out


def dequantized(x: Tensor, bound: BoundModule) -> Tensor | None:
    """Return a 4-bit weight that one kernel dequantizes with its block constants. None if it has no 4 bits."""
    quantization = bound.module_spec.quantization
    if not isinstance(quantization, Quantization):
        return None
    return x.tape.scratch(bound.module.weight.shape, quantization.compute_dtype, "weight, dequantized")


def add_update(x: Tensor, bound: BoundModule) -> None:
    """Add the update to an output in place. Both factors are cast to the input's dtype."""
    a, b = (bound.added[name] for name in FACTORS)
    cast = cast_factor(a, x)
    after_a = x.tape.scratch((*x.shape[:-1], a.shape[0]), x.dtype, "A·x")
    del cast
    cast = cast_factor(b, x)
    del cast, after_a


def cast_factor(factor: Tensor, x: Tensor) -> Tensor | None:
    """Return a copy of a factor in the dtype of x, if its dtype differs."""
    if factor.dtype == x.dtype:
        return None
    return x.tape.scratch(factor.shape, x.dtype, "factor in the input's dtype")


def cast_factors(bound: BoundModule, x: Tensor) -> list[Tensor | None]:
    """Return copies of both factors of a module in the dtype of x."""
    return [cast_factor(bound.added[name], x) for name in FACTORS]


def new_gradients(bound: BoundModule, x: Tensor) -> list[Tensor]:
    """Return the gradients of both factors in the dtype of x."""
    return [x.tape.new(bound.added[name].shape, x.dtype, "factor: gradient") for name in FACTORS]


def times_b(bound: BoundModule, x: Tensor) -> Tensor:
    """Return the product of the output's gradient and B."""
    return x.tape.scratch((*x.shape[:-1], bound.added[FACTORS[0]].shape[0]), x.dtype, "output's gradient · B")


def fill_gradients(bound: BoundModule, x: Tensor, times_b_kept: Tensor | None = None) -> None:
    """Compute the gradients of both factors in place, from the input and the output's gradient.

    `times_b_kept`: the product of the output's gradient and B, if it is kept. It is computed here otherwise.
    """
    if times_b_kept is None:
        times_b(bound, x)
    x.tape.scratch((*x.shape[:-1], bound.added[FACTORS[0]].shape[0]), x.dtype, "A · input")


def add_input_gradient(bound: BoundModule, grad: Tensor, times_b_kept: Tensor | None = None) -> None:
    """Add a module's part of the input's gradient in place. A 4-bit weight is dequantized into a new tensor.

    If the product of the output's gradient and B is kept, as from 2026.10 on, one kernel dequantizes the weight and
    its block constants.
    """
    quantization = bound.module_spec.quantization
    if times_b_kept is not None:
        dequantized(grad, bound)
    elif isinstance(quantization, Quantization):
        four_bit.dequantize_4bit(grad.tape, bound.module, quantization)
    if times_b_kept is None:
        times_b(bound, grad)
