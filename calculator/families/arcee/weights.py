"""Arcee: RMSNorm, rotary embeddings, grouped queries, a plain squared-ReLU MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.families.arcee import forward
from calculator.families.blocks import PRE_NORMS, Owned, alike, attention, decoder, norms, plain_mlp
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

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import LayerKind


def _arcee(config: Config) -> Parts:
    def layer(_kind: LayerKind) -> Owned:
        bias = config["attention_bias"]
        return (
            *attention(config, qkv_bias=bias, o_bias=bias),
            *plain_mlp(config, "mlp.up_proj", "mlp.down_proj", bias=config["mlp_bias"]),
            *norms(config, *PRE_NORMS),
        )

    return decoder(config, alike(config), layer)


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
        parts=_arcee,
        forward=forward.ARCEE,
    ),
)
