"""Falcon-H1: attention and Mamba 2 in parallel in every layer, then a gated MLP, with multipliers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Computed
from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.module import Buffer
from calculator.families.blocks import Owned, attention, decoder, gated_mlp, norms, uniform_layers
from calculator.families.falcon_h1 import forward
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    activation,
    derived,
    dropouts,
    flag,
    grouped_sizes,
    number,
    padding,
    positions,
    size,
    tie,
)
from calculator.families.mamba import WITHOUT_KERNELS, expanded, mamba_fields, mixer
from calculator.families.rope import rope

if TYPE_CHECKING:
    from calculator.architecture.config import Config

_HYBRID = LayerKind(attention="hybrid")


def _inner(config: Config) -> int:
    return int(config["mamba_d_ssm"] or expanded(config))


def _falcon_h1(config: Config) -> Parts:
    bias, projected = config["attention_bias"], 2 * config["mamba_inner"] + config["mamba_n_heads"]
    factors = projected + 2 * config["mamba_n_groups"] * config["mamba_d_state"]

    def layer(_kind: LayerKind) -> Owned:
        return (
            *gated_mlp(config, bias=config["mlp_bias"], name="feed_forward"),
            *mixer(config, out_bias=config["projectors_bias"], normed=config["mamba_rms_norm"]),
            Buffer(name="mamba.mup_vector", shape=(1, 1, factors), dtype="model"),
            *attention(config, qkv_bias=bias, o_bias=bias),
            *norms(config, "input_layernorm", "pre_ff_layernorm"),
        )

    return decoder(config, uniform_layers(config, _HYBRID), layer, final_norm="model.final_layernorm")


FAMILIES = (
    Family(
        model_type="falcon_h1",
        entries=(
            *grouped_sizes(kv=8, head_nullable=False),
            positions(8192),
            *rope(),
            activation(),
            number("rms_norm_eps", 1e-5),
            flag("attention_bias", False),
            flag("mlp_bias", False),
            flag("projectors_bias", False),
            *dropouts("attention_dropout", nullable=True),
            *mamba_fields((size("mamba_d_ssm", 1024, nullable=True), derived("mamba_inner", _inner))),
            flag("mamba_norm_before_gate", True),
            flag("mamba_rms_norm", False),
            Computed(name="layer_types", value=lambda config: ("hybrid",) * int(config["num_hidden_layers"])),
            tie(default=False),
            *padding(0),
        ),
        parts=_falcon_h1,
        forward=forward.FALCON_H1,
        notes=(WITHOUT_KERNELS,),
    ),
)
