"""Nemotron: partial rotary embeddings, LayerNorm offset by one, a plain squared-ReLU MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.families.blocks import plain_mlp_decoder
from calculator.families.family import Family, Parts
from calculator.families.fields import activation, dropouts, flag, grouped_sizes, number, padding, positions, tie
from calculator.families.nemotron import forward
from calculator.families.rope import rope

if TYPE_CHECKING:
    from calculator.architecture.config import Config


def _nemotron(config: Config) -> Parts:
    return plain_mlp_decoder(config, norm_bias=True)


FAMILIES = (
    Family(
        model_type="nemotron",
        entries=(
            *grouped_sizes(),
            positions(4096),
            *rope(share=0.5, always=True),
            activation("relu2"),
            number("norm_eps", 1e-5),
            *dropouts("attention_dropout"),
            flag("attention_bias", False),
            flag("mlp_bias", False),
            tie(default=False),
            *padding(),
        ),
        parts=_nemotron,
        forward=forward.NEMOTRON,
    ),
)
