"""Command R: attention and MLP in parallel after one norm, a scaled tied head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.module import norm
from calculator.families.blocks import Owned, attention, decoder, gated_mlp, norms, uniform_layers
from calculator.families.cohere import forward
from calculator.families.family import Family, Parts
from calculator.families.fields import activation, dropouts, flag, grouped_sizes, number, padding, positions, size, tie
from calculator.families.rope import rope
from calculator.families.windows import layer_types, sliding_except_every, window

if TYPE_CHECKING:
    from calculator.architecture.config import Config, Entry
    from calculator.architecture.module import Module

_COMMON: tuple[Entry, ...] = (
    *grouped_sizes(head_nullable=False),
    positions(8192),
    activation(),
    flag("attention_bias", False),
    tie(default=True),
    *padding(0),
)


def _head_norms(config: Config) -> tuple[Module, ...]:
    head = config["head_dim"]
    return (
        norm("self_attn.q_norm", config["num_attention_heads"], head),
        norm("self_attn.k_norm", config["num_key_value_heads"], head),
    )


def _layer(config: Config, *between: Module) -> Owned:
    bias = config["attention_bias"]
    return (
        *attention(config, qkv_bias=bias, o_bias=bias),
        *between,
        *gated_mlp(config),
        *norms(config, "input_layernorm"),
    )


def _cohere(config: Config) -> Parts:
    between = _head_norms(config) if config["use_qk_norm"] else ()
    return decoder(config, uniform_layers(config), lambda _kind: _layer(config, *between))


def _cohere2(config: Config) -> Parts:
    types = config["layer_types"]
    kinds = [LayerKind(attention=attention, rotated=attention == "sliding_attention") for attention in types]
    return decoder(config, kinds, lambda _kind: _layer(config))


FAMILIES = (
    Family(
        model_type="cohere",
        entries=(
            *_COMMON,
            *rope(theta=500_000.0),
            number("layer_norm_eps", 1e-5, nullable=True),
            *dropouts("attention_dropout", nullable=True),
            number("logit_scale", 0.0625, nullable=True),
            flag("use_qk_norm", False, nullable=True),
        ),
        parts=_cohere,
        forward=forward.COHERE,
    ),
    Family(
        model_type="cohere2",
        entries=(
            *_COMMON,
            *rope(),
            number("layer_norm_eps", 1e-5),
            *dropouts("attention_dropout"),
            number("logit_scale", 0.0625),
            window(4096),
            size("sliding_window_pattern", 4),
            *layer_types(sliding_except_every("sliding_window_pattern")),
        ),
        parts=_cohere2,
        forward=forward.COHERE2,
    ),
)
