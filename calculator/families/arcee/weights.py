"""Arcee: RMSNorm, rotary embeddings, grouped queries, a plain squared-ReLU MLP."""

from __future__ import annotations

from calculator.families.arcee import forward
from calculator.families.blocks import plain_mlp_decoder
from calculator.families.family import Family
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
from calculator.families.rope import rope

FAMILIES = (
    Family(
        model_type="arcee",
        entries=(
            *grouped_sizes(),
            DIVISIBLE,
            positions(4096),
            *rope(),
            activation("relu2"),
            number("rms_norm_eps", 1e-5),
            *dropouts("attention_dropout"),
            flag("attention_bias", False),
            flag("mlp_bias", False),
            tie(default=False),
            *padding(),
        ),
        parts=plain_mlp_decoder,
        forward=forward.ARCEE,
    ),
)
