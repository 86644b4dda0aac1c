"""Llama and Mistral: RMSNorm, grouped-query attention with rotary embeddings, a gated MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.families.blocks import PRE_NORMS, Owned, alike, attention, decoder, gated_mlp, norms
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
from calculator.families.rope import rope
from calculator.families.windows import window, window_kinds

if TYPE_CHECKING:
    from calculator.config import Config


def _llama(config: Config) -> Parts:
    def layer(_kind: str) -> Owned:
        bias = config["attention_bias"]
        return (
            *attention(config, qkv_bias=bias, o_bias=bias),
            *gated_mlp(config, bias=config["mlp_bias"]),
            *norms(config, *PRE_NORMS),
        )

    return decoder(config, alike(config), layer)


def _mistral(config: Config) -> Parts:
    def layer(_kind: str) -> Owned:
        return (*attention(config), *gated_mlp(config), *norms(config, *PRE_NORMS))

    return decoder(config, window_kinds(config), layer)


_LLAMA = (
    *grouped_sizes(),
    DIVISIBLE,
    positions(2048),
    *rope(),
    activation(),
    number("rms_norm_eps", 1e-6),
    *dropouts("attention_dropout", nullable=True),
    flag("attention_bias", False),
    flag("mlp_bias", False),
    tie(default=False),
    *padding(),
)

FAMILIES = (
    Family(
        model_type="llama",
        entries=_LLAMA,
        parts=_llama,
    ),
    Family(
        model_type="mistral",
        entries=(
            *grouped_sizes(kv=8, kv_nullable=False),
            positions(4096 * 32),
            *rope(),
            window(4096),
            activation(),
            number("rms_norm_eps", 1e-6),
            *dropouts("attention_dropout"),
            tie(default=False),
            *padding(),
        ),
        parts=_mistral,
    ),
)
