"""Gemma 1 and 2: scaled embeddings, norms whose weight is offset by one, in Gemma 2 also after each sublayer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.config import Computed
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
    size,
    tie,
)
from calculator.families.rope import rope
from calculator.families.windows import every, layer_types, window
from calculator.module import Buffer

if TYPE_CHECKING:
    from calculator.config import Config

#: The norms around Gemma's sublayers from its second version on.
SANDWICH = (*PRE_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")

#: The factor that embeddings are multiplied with.
EMBED_SCALE = Buffer(name="model.embed_tokens.embed_scale", shape=(), dtype=None)


def _gemma(config: Config) -> Parts:
    def layer(_kind: str) -> Owned:
        bias = config["attention_bias"]
        return (
            *attention(config, qkv_bias=bias, o_bias=bias),
            *gated_mlp(config),
            *norms(config, *PRE_NORMS),
        )

    return (*decoder(config, alike(config), layer), EMBED_SCALE)


def _gemma2(config: Config) -> Parts:
    def layer(_kind: str) -> Owned:
        bias = config["attention_bias"]
        return (
            *attention(config, qkv_bias=bias, o_bias=bias),
            *gated_mlp(config),
            *norms(config, *SANDWICH),
        )

    return (*decoder(config, config["layer_types"], layer), EMBED_SCALE)


def _tanh_for_gelu(config: Config) -> str:
    """Gemma 1's legacy name for the approximation that it means."""
    named: str = config["hidden_act"]
    return "gelu_pytorch_tanh" if named == "gelu" else named


FAMILIES = (
    Family(
        model_type="gemma",
        entries=(
            *grouped_sizes(kv=16, kv_nullable=False, head=256),
            positions(8192),
            *rope(),
            activation("gelu_pytorch_tanh"),
            Computed(name="hidden_act", value=_tanh_for_gelu),
            number("rms_norm_eps", 1e-6),
            *dropouts("attention_dropout"),
            flag("attention_bias", False),
            flag("use_bidirectional_attention", None, nullable=True),
            tie(default=True),
            *padding(0),
        ),
        parts=_gemma,
    ),
    Family(
        model_type="gemma2",
        entries=(
            *grouped_sizes(kv=4, kv_nullable=False, head=256),
            DIVISIBLE,
            positions(8192),
            *rope(),
            window(4096),
            *layer_types(every(2)),
            activation("gelu_pytorch_tanh", spelled="hidden_activation"),
            number("rms_norm_eps", 1e-6),
            *dropouts("attention_dropout", nullable=True),
            flag("attention_bias", False),
            size("query_pre_attn_scalar", 256),
            number("attn_logit_softcapping", 50.0, nullable=True),
            number("final_logit_softcapping", 30.0, nullable=True),
            flag("use_bidirectional_attention", None, nullable=True),
            tie(default=True),
            *padding(0),
        ),
        parts=_gemma2,
    ),
)
