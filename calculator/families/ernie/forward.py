"""ERNIE 4.5: Llama's layer, whose heads are rotated by interleaved pairs in float32."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.layers import rotary
from calculator.layers.decoder_forward import DecoderForward, rotary_tables, spread_table
from calculator.layers.decoder_layer import SequentialLayer
from calculator.layers.self_attention import SelfAttention

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


def _rotate(context: Context, query_states: Tensor, key_states: Tensor) -> tuple[Tensor, ...]:
    """Run apply_rotary_pos_emb: products in float32 with tables that each layer interleaves, then casts back."""
    cos, sin = (spread_table(context, table) for table in context.position_tables[:2])
    q_embed = _rotated(query_states, cos, sin, "query, rotated")
    k_embed = _rotated(key_states, cos, sin, "key, rotated")
    dtype = query_states.dtype
    return ops.cast(q_embed, dtype, "query, cast back"), ops.cast(k_embed, dtype, "key, cast back")


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, name: str) -> Tensor:
    straight = ops.mul(ops.cast(x, "float32", f"{name}: input in float32"), cos, f"{name} · cos")
    return ops.add(straight, ops.mul(_swapped(x, name), sin, f"{name}, rotated · sin"), name)


def _swapped(x: Tensor, name: str) -> Tensor:
    return ops.cast(rotary.rotate_half(x), "float32", f"{name}: swapped halves in float32")


ERNIE4_5 = DecoderForward(
    tables=partial(rotary_tables, dtype="float32"),
    layer=SequentialLayer(attention=SelfAttention(rotate=_rotate)),
)
