"""Mixtral: Mistral's block with a mixture of experts for its MLP."""

from __future__ import annotations

from calculator.layers.decoder_forward import DecoderForward
from calculator.layers.decoder_layer import SequentialLayer
from calculator.layers.mixture import Mixture

MIXTRAL = DecoderForward(layer=SequentialLayer(mlp=Mixture(jitter="router_jitter_noise", is_leaf=True)))
