"""ERNIE 4.5: Llama's layer, with one flag for all biases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.families.blocks import PRE_NORMS, Owned, alike, attention, decoder, gated_mlp, norms
from calculator.families.ernie import forward
from calculator.families.family import Family, Parts
from calculator.families.fields import activation, flag, grouped_sizes, number, padding, positions, tie
from calculator.families.rope import rope

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import LayerKind


def _ernie4_5(config: Config) -> Parts:
    def layer(_kind: LayerKind) -> Owned:
        bias = bool(config["use_bias"])
        return (
            *attention(config, qkv_bias=bias, o_bias=bias),
            *gated_mlp(config, bias=bias),
            *norms(config, *PRE_NORMS),
        )

    return decoder(config, alike(config), layer)


FAMILIES = (
    Family(
        model_type="ernie4_5",
        entries=(
            *grouped_sizes(kv=2, head=128),
            positions(131_072),
            *rope(theta=500_000.0),
            activation(),
            number("rms_norm_eps", 1e-5),
            flag("use_bias", False, nullable=True),
            tie(default=True),
            *padding(0),
        ),
        parts=_ernie4_5,
        forward=forward.ERNIE4_5,
    ),
)
