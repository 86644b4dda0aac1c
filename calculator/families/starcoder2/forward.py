"""StarCoder 2: LayerNorm, a plain MLP, dropout in each sublayer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.layers import mlp, norms
from calculator.layers.decoder_forward import DecoderForward, final
from calculator.layers.decoder_layer import SequentialLayer, norm_by_name
from calculator.layers.self_attention import SelfAttention

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules

_PLAIN = mlp.plain("mlp.c_fc", "mlp.c_proj")


def _before_layers(context: Context, inputs_embeds: Tensor) -> Tensor:
    context.set_scope("model.embeddings: ")
    return ops.dropout(inputs_embeds, context.config["embedding_dropout"], "dropped")


def _mlp(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    hidden_states = _PLAIN(context, modules, x)
    return ops.dropout(hidden_states, context.config["residual_dropout"], "MLP, dropped")


STARCODER2 = DecoderForward(
    before_layers=_before_layers,
    layer=SequentialLayer(
        attention=SelfAttention(dropout="residual_dropout"),
        mlp=_mlp,
        norm=norm_by_name(norms.layer_norm),
    ),
    final_norm=final(norms.layer_norm),
)
