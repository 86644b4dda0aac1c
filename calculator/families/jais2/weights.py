"""Jais 2: LayerNorm, rotary embeddings, grouped queries, a plain squared-ReLU MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.families.blocks import plain_mlp_decoder
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    DIVISIBLE,
    activation,
    dropouts,
    flag,
    grouped_sizes,
    number,
    padding,
    positions,
    tie,
)
from calculator.families.jais2 import forward
from calculator.families.rope import rope

if TYPE_CHECKING:
    from calculator.architecture.config import Config


def _jais2(config: Config) -> Parts:
    return plain_mlp_decoder(config, norm_bias=True)


FAMILIES = (
    Family(
        model_type="jais2",
        entries=(
            *grouped_sizes(),
            DIVISIBLE,
            positions(8192),
            *rope(),
            activation("relu2"),
            number("layer_norm_eps", 1e-5),
            *dropouts("attention_dropout", nullable=True),
            flag("attention_bias", True),
            flag("mlp_bias", True),
            tie(default=False),
            *padding(),
        ),
        parts=_jais2,
        forward=forward.JAIS2,
    ),
)
