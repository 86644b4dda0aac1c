"""Bamba: layers of Mamba 2 or attention with partial rotary embeddings, each with a gated MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.architecture.config import Computed, Field
from calculator.architecture.layer_kind import LayerKind
from calculator.families.bamba import forward
from calculator.families.blocks import Owned, attention, decoder, gated_mlp, norms
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    activation,
    dropouts,
    flag,
    grouped_sizes,
    number,
    padding,
    positions,
    tie,
)
from calculator.families.mamba import WITHOUT_KERNELS, mamba_fields, mixer
from calculator.families.rope import rope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import MixerType

_TYPES: tuple[MixerType, MixerType] = ("linear_attention", "full_attention")


def _half_rotated(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Drop the share of each head that is rotated, because the class always rotates a half."""
    return {name: value for name, value in raw.items() if name != "partial_rotary_factor"}


def _types(config: Config) -> tuple[MixerType, ...]:
    attending = config["attn_layer_indices"] or ()
    return tuple(_TYPES[index in attending] for index in range(config["num_hidden_layers"]))


def _bamba(config: Config) -> Parts:
    def layer(kind: LayerKind) -> Owned:
        bias = config["attention_bias"]
        recurrent = kind.attention == "linear_attention"
        return (
            *gated_mlp(config, bias=config["mlp_bias"], name="feed_forward"),
            *norms(config, "input_layernorm", "pre_ff_layernorm"),
            *(mixer(config) if recurrent else attention(config, qkv_bias=bias, o_bias=bias)),
        )

    kinds = {name: LayerKind(attention=name) for name in _TYPES}
    stacked = [kinds[name] for name in config["layer_types"]]
    return decoder(config, stacked, layer, final_norm="model.final_layernorm")


FAMILIES = (
    Family(
        model_type="bamba",
        entries=(
            *grouped_sizes(kv=8, head_nullable=False),
            positions(262_144),
            *rope(share=0.5, always=True),
            activation(),
            number("rms_norm_eps", 1e-5),
            flag("attention_bias", False),
            flag("mlp_bias", False),
            *dropouts("attention_dropout", nullable=True),
            Field(name="attn_layer_indices", type="indices", default=None, nullable=True),
            Computed(name="layer_types", value=_types),
            number("z_loss_coefficient", 0.0),
            *mamba_fields(),
            tie(default=False),
            *padding(0),
        ),
        parts=_bamba,
        forward=forward.BAMBA,
        prepare=_half_rotated,
        notes=(WITHOUT_KERNELS,),
    ),
)
