"""Rotary position embedding (Su et al. 2021), with the temporaries of the real function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.step import operations as ops
from calculator.step.tape import Tape, Tensor

if TYPE_CHECKING:
    from calculator.dtype import DType


def cos_and_sin(tape: Tape, batch: int, length: int, rotary_dim: int, dtype: DType) -> tuple[Tensor, Tensor]:
    """The tables that every layer shares: (batch, 1, sequence, rotary_dim) each."""
    freqs = tape.new((batch, length, rotary_dim // 2), "float32", "rotary: freqs")
    emb = ops.concatenate((freqs, freqs), (batch, length, rotary_dim), "rotary: emb")
    cos = ops.scale(ops.unary(emb, "rotary: cos", saves="input"), "rotary: cos, scaled")
    sin = ops.scale(ops.unary(emb, "rotary: sin", saves="input"), "rotary: sin, scaled")
    return ops.cast(cos, dtype, "rotary: cos"), ops.cast(sin, dtype, "rotary: sin")


def rotate_half(x: Tensor) -> Tensor:
    """The two halves swapped, the second negated: two slices, a negation and a concatenation."""
    half = (*x.shape[:-1], x.shape[-1] // 2)
    x1 = ops.narrow(x, half)
    x2 = ops.narrow(x, half)
    return ops.concatenate((ops.scale(x2, "rotary: negated half"), x1), x.shape, "rotary: rotated")


def rotated(x: Tensor, cos: Tensor, sin: Tensor, name: str) -> Tensor:
    """x · cos + rotate_half(x) · sin."""
    return ops.add(ops.mul(x, cos, f"{name} · cos"), ops.mul(rotate_half(x), sin, f"{name}, rotated · sin"), name)
