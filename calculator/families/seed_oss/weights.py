"""Seed-OSS: Llama's layer, with biases of its own and a dropout after each sublayer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.families.blocks import PRE_NORMS, Owned, attention, decoder, gated_mlp, norms, uniform_layers
from calculator.families.family import Family, Parts
from calculator.families.fields import activation, dropouts, flag, grouped_sizes, number, padding, positions, tie
from calculator.families.rope import rope
from calculator.families.seed_oss import forward

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import LayerKind


def _seed_oss(config: Config) -> Parts:
    def layer(_kind: LayerKind) -> Owned:
        return (
            *attention(config, qkv_bias=config["attention_bias"], o_bias=config["attention_out_bias"]),
            *gated_mlp(config, bias=config["mlp_bias"]),
            *norms(config, *PRE_NORMS),
        )

    return decoder(config, uniform_layers(config), layer)


FAMILIES = (
    Family(
        model_type="seed_oss",
        entries=(
            *grouped_sizes(kv=8, head=128, head_nullable=True),
            positions(524_288),
            *rope(),
            activation(),
            number("rms_norm_eps", 1e-6),
            *dropouts("attention_dropout", "residual_dropout", default=0.1),
            flag("attention_bias", True),
            flag("attention_out_bias", False),
            flag("mlp_bias", False),
            tie(default=False),
            *padding(1),
        ),
        parts=_seed_oss,
        forward=forward.SEED_OSS,
    ),
)
