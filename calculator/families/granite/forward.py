"""Granite: Llama's block with multipliers on embeddings, residuals and logits; also with experts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.layers import routers
from calculator.layers.decoder_forward import DecoderForward, scaled_logits
from calculator.layers.decoder_layer import SequentialLayer
from calculator.layers.mixture import Mixture

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


def _embeddings(context: Context, inputs_embeds: Tensor) -> Tensor:
    context.set_scope("model.")
    return ops.scale(inputs_embeds, "embeddings, multiplied")


def _multiplied(_: Context, hidden_states: Tensor) -> Tensor:
    """Multiply the output of a sublayer by a constant."""
    return ops.scale(hidden_states, "output, multiplied")


#: The experts of a layer.
MIXTURE = Mixture(router=routers.softmax_last, gate="block_sparse_moe.router", experts="block_sparse_moe.experts")

GRANITE = DecoderForward(
    before_layers=_embeddings,
    retained="input",
    layer=SequentialLayer(transform_output=_multiplied),
    logits=scaled_logits,
)

GRANITEMOE = replace(GRANITE, layer=SequentialLayer(mlp=MIXTURE, transform_output=_multiplied))
