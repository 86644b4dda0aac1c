"""Nemotron: LayerNorm with a weight offset by one, partial rotary embeddings, and a plain squared-ReLU MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.layers import mlp, norms, rotary
from calculator.layers.decoder_forward import DecoderForward, final
from calculator.layers.decoder_layer import SequentialLayer, norm_by_name
from calculator.layers.self_attention import SelfAttention

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


def _rotate(context: Context, query_states: Tensor, key_states: Tensor) -> tuple[Tensor, ...]:
    """Rotate the first dimensions of every head. The rotated parts stay alive until queries and keys are joined."""
    cos, sin = context.position_tables[:2]
    q, q_pass, k, k_pass = rotary.split_part(query_states, key_states, cos.shape[-1])
    q_embed, k_embed = rotary.rotate(q, cos, sin, "query, rotated"), rotary.rotate(k, cos, sin, "key, rotated")
    return (
        ops.cat((q_embed, q_pass), query_states.shape, "query, whole again"),
        ops.cat((k_embed, k_pass), key_states.shape, "key, whole again"),
    )


NEMOTRON = DecoderForward(
    layer=SequentialLayer(
        attention=SelfAttention(rotate=_rotate),
        mlp=mlp.plain("mlp.up_proj", "mlp.down_proj"),
        norm=norm_by_name(norms.offset_layer_norm),
    ),
    final_norm=final(norms.offset_layer_norm),
    passes_bounds=False,
    partial_rotary=True,
)
