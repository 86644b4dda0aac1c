"""Rotary position embedding (Su et al. 2021), with the temporaries of the real function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops

if TYPE_CHECKING:
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tape, Tensor


def cos_and_sin(tape: Tape, batch: int, length: int, rotary_dim: int, dtype: DType) -> tuple[Tensor, Tensor]:
    """The tables that every layer shares: (batch, 1, sequence, rotary_dim) each."""
    freqs = tape.new((batch, length, rotary_dim // 2), "float32", "rotary: freqs")
    emb = ops.cat((freqs, freqs), (batch, length, rotary_dim), "rotary: emb")
    cos = ops.scale(ops.unary(emb, "rotary: cos", saves="input"), "rotary: cos, scaled")
    sin = ops.scale(ops.unary(emb, "rotary: sin", saves="input"), "rotary: sin, scaled")
    return ops.cast(cos, dtype, "rotary: cos"), ops.cast(sin, dtype, "rotary: sin")


def rotate_half(x: Tensor) -> Tensor:
    """The two halves swapped, the second negated: two slices, a negation and a concatenation.

    Where pairs of neighbours take the halves' place, the slices skip and the parts are stacked: the same memory.
    """
    half = (*x.shape[:-1], x.shape[-1] // 2)
    x1 = ops.narrow(x, half)
    x2 = ops.narrow(x, half)
    return ops.cat((ops.scale(x2, "rotary: negated half"), x1), x.shape, "rotary: rotated")


def rotate(x: Tensor, cos: Tensor, sin: Tensor, name: str) -> Tensor:
    """X · cos + rotate_half(x) · sin."""
    return ops.add(ops.mul(x, cos, f"{name} · cos"), ops.mul(rotate_half(x), sin, f"{name}, rotated · sin"), name)


def split_part(query: Tensor, key: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first dimensions of each head, and the others: queries', then keys'."""
    inner, rest = (*query.shape[:-1], width), (*query.shape[:-1], query.shape[-1] - width)
    q_rot, q_pass = ops.narrow(query, inner), ops.narrow(query, rest)
    inner, rest = (*key.shape[:-1], width), (*key.shape[:-1], key.shape[-1] - width)
    k_rot, k_pass = ops.narrow(key, inner), ops.narrow(key, rest)
    return q_rot, q_pass, k_rot, k_pass


def rotate_part(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """The first dimensions of each head rotated, the others beside them (GPT-NeoX's apply_rotary_pos_emb)."""
    q_rot, q_pass, k_rot, k_pass = split_part(query, key, cos.shape[-1])
    q_embed = rotate(q_rot, cos, sin, "query, rotated")
    k_embed = rotate(k_rot, cos, sin, "key, rotated")
    q_embed = ops.cat((q_embed, q_pass), query.shape, "query, whole again")
    k_embed = ops.cat((k_embed, k_pass), key.shape, "key, whole again")
    return q_embed, k_embed
