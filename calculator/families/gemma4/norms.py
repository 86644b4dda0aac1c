"""Gemma 4's norms: in float32, with a power instead of the reciprocal square root."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.module_calls import enter, leave
from calculator.layers.norms import as_module

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context

    Norm = Callable[[BoundModule, Tensor], Tensor]


def _normalized(x: Tensor) -> Tensor:
    mean_squared = ops.shift(ops.mean(ops.unary(x, "squared", saves="input", temporaries=2), "mean"), "mean + eps")
    return ops.mul(x, ops.unary(mean_squared, "inverse root", saves="input", temporaries=2), "normalized")


@as_module
def rms_norm(norm: BoundModule, x: Tensor) -> Tensor:
    """Run Gemma4RMSNorm: weight times normalized x, computed in float32 and cast back."""
    x.tape.scope = f"{norm.name}: "
    output = _normalized(ops.cast(x, "float32", "input in float32"))
    output = ops.mul(output, ops.cast(norm.own["weight"], "float32", "weight in float32"), "scaled")
    return ops.cast(output, x.dtype, "output")


def unscaled_rms_norm(x: Tensor) -> Tensor:
    """Run Gemma4RMSNorm without a weight."""
    return ops.cast(_normalized(ops.cast(x, "float32", "input in float32")), x.dtype, "output")


def called_unscaled(context: Context, path: str, x: Tensor) -> Tensor:
    """Run it as a module of the decoder, at a path."""
    context.set_scope(f"{path}: ")
    return leave(path, unscaled_rms_norm(enter(path, x)))
