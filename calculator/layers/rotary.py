"""Rotary position embeddings (Su et al. 2021), with the temporaries of the real functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops

if TYPE_CHECKING:
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tape, Tensor


def cos_and_sin(tape: Tape, batch: int, length: int, rotary_dim: int, dtype: DType) -> tuple[Tensor, Tensor]:
    """Return the cos and sin tables that all layers share: (batch, 1, sequence, rotary_dim) each."""
    freqs = tape.new((batch, length, rotary_dim // 2), "float32", "rotary: freqs")
    tape.multiply_angles()
    emb = ops.cat((freqs, freqs), (batch, length, rotary_dim), "rotary: emb")
    cos = ops.scale(ops.unary(emb, "rotary: cos", saves="input"), "rotary: cos, scaled")
    sin = ops.scale(ops.unary(emb, "rotary: sin", saves="input"), "rotary: sin, scaled")
    return ops.cast(cos, dtype, "rotary: cos"), ops.cast(sin, dtype, "rotary: sin")


def rotate_half(x: Tensor) -> Tensor:
    """Swap the two halves and negate the second: two slices, a negation and a concatenation.

    Interleaved pairs instead of halves need the same memory: the slices have a step of two, and the parts are stacked.
    """
    half = (*x.shape[:-1], x.shape[-1] // 2)
    x1 = ops.narrow(x, half)
    x2 = ops.narrow(x, half, part=1)
    return ops.cat((ops.scale(x2, "rotary: negated half"), x1), x.shape, "rotary: rotated")


def rotate(x: Tensor, cos: Tensor, sin: Tensor, name: str) -> Tensor:
    """Return x · cos + rotate_half(x) · sin."""
    return ops.add(ops.mul(x, cos, f"{name} · cos"), ops.mul(rotate_half(x), sin, f"{name}, rotated · sin"), name)


def split_part(query: Tensor, key: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Slice each head of queries, then of keys, into the dimensions that are rotated and the others."""
    inner, rest = (*query.shape[:-1], width), (*query.shape[:-1], query.shape[-1] - width)
    q_rot, q_pass = ops.narrow(query, inner), ops.narrow(query, rest)
    inner, rest = (*key.shape[:-1], width), (*key.shape[:-1], key.shape[-1] - width)
    k_rot, k_pass = ops.narrow(key, inner), ops.narrow(key, rest)
    return q_rot, q_pass, k_rot, k_pass


def rotate_part(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate the first dimensions of each head and concatenate the others (GPT-NeoX's apply_rotary_pos_emb)."""
    q_rot, q_pass, k_rot, k_pass = split_part(query, key, cos.shape[-1])
    q_embed = rotate(q_rot, cos, sin, "query, rotated")
    k_embed = rotate(k_rot, cos, sin, "key, rotated")
    q_embed = ops.cat((q_embed, q_pass), query.shape, "query, whole again")
    k_embed = ops.cat((k_embed, k_pass), key.shape, "key, whole again")
    return q_embed, k_embed
