"""Seed-OSS: Llama's layer, with a dropout after each sublayer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.layers import mlp
from calculator.layers.decoder_forward import DecoderForward
from calculator.layers.decoder_layer import SequentialLayer
from calculator.layers.self_attention import SelfAttention

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def _dropped(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    """Run the gated MLP, then dropout."""
    down = mlp.gated(context, modules, x)
    return ops.dropout(down, context.config["residual_dropout"], "MLP output, dropped")


SEED_OSS = DecoderForward(
    layer=SequentialLayer(attention=SelfAttention(dropout="residual_dropout"), mlp=_dropped),
)
