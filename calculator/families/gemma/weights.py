"""Gemma 1, 2 and the text model of 3: scaled embeddings, from version 2 on a norm before and after each sublayer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Computed, ContradictionError
from calculator.architecture.dimension import Dim
from calculator.architecture.module import Buffer, norm
from calculator.families.blocks import (
    PRE_NORMS,
    Owned,
    attention,
    decoder,
    gated_mlp,
    kinds_by_attention,
    norms,
    uniform_layers,
)
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
from calculator.families.gemma import forward
from calculator.families.rope import frequencies_per_type, rope, rope_per_type
from calculator.families.windows import layer_types, sliding_except_every, window

if TYPE_CHECKING:
    from calculator.architecture.config import Config, Entry
    from calculator.architecture.layer_kind import LayerKind

#: The norms around Gemma's sublayers, from version 2 on.
SANDWICH = (*PRE_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")

#: The buffer with the factor that scales embeddings.
EMBED_SCALE = Buffer(name="model.embed_tokens.embed_scale", shape=(), dtype="model")


def gemma_layer(config: Config) -> Owned:
    """Return one layer of Gemma 1, which PaliGemma's text model also has."""
    bias = config["attention_bias"]
    return (*attention(config, qkv_bias=bias, o_bias=bias), *gated_mlp(config), *norms(config, *PRE_NORMS))


def _gemma(config: Config) -> Parts:
    return (*decoder(config, uniform_layers(config), lambda _kind: gemma_layer(config)), EMBED_SCALE)


def _gemma2(config: Config) -> Parts:
    def layer(_kind: LayerKind) -> Owned:
        bias = config["attention_bias"]
        return (
            *attention(config, qkv_bias=bias, o_bias=bias),
            *gated_mlp(config),
            *norms(config, *SANDWICH),
        )

    return (*decoder(config, kinds_by_attention(config), layer), EMBED_SCALE)


def gemma3_layer(config: Config) -> Owned:
    """Return one layer of Gemma 3's text model."""
    bias, head = config["attention_bias"], config["head_dim"]
    return (
        *attention(config, qkv_bias=bias, o_bias=bias),
        norm("self_attn.q_norm", head),
        norm("self_attn.k_norm", head),
        *gated_mlp(config),
        *norms(config, *SANDWICH),
    )


def _gemma3_text(config: Config) -> Parts:
    rotary = frequencies_per_type(config, "model.rotary_emb")
    kinds = kinds_by_attention(config)
    return (*decoder(config, kinds, lambda _kind: gemma3_layer(config), rotary=rotary), EMBED_SCALE)


def _window_both_ways(config: Config) -> int | None:
    """Return the window. If attention is bidirectional, return half of it for each side."""
    window_size: int | None = config["sliding_window"]
    if not config["use_bidirectional_attention"]:
        return window_size
    if window_size is None:
        raise ContradictionError("sliding_window", "there is none, but use_bidirectional_attention halves it; give one")
    return Dim(window_size // 2 + 1, "sliding_window")


#: The fields of a Gemma 3 text model.
GEMMA3_TEXT: tuple[Entry, ...] = (
    *grouped_sizes(kv=4, kv_nullable=False, head=256),
    DIVISIBLE,
    positions(131_072),
    flag("use_bidirectional_attention", False, nullable=True),
    window(4096),
    Computed(name="sliding_window", value=_window_both_ways),
    size("sliding_window_pattern", 6),
    *layer_types(sliding_except_every("sliding_window_pattern")),
    *rope_per_type(theta=1e6, local_theta=10_000.0, local_theta_key="rope_local_base_freq"),
    activation("gelu_pytorch_tanh", spelled="hidden_activation"),
    number("rms_norm_eps", 1e-6),
    *dropouts("attention_dropout", nullable=True),
    flag("attention_bias", False),
    size("query_pre_attn_scalar", 256),
    number("attn_logit_softcapping", None, nullable=True),
    number("final_logit_softcapping", None, nullable=True),
    tie(default=True),
    *padding(0),
)


def _tanh_for_gelu(config: Config) -> str:
    """Replace Gemma 1's legacy name, gelu, by that of the approximation that the code runs."""
    activation_name: str = config["hidden_act"]
    return "gelu_pytorch_tanh" if activation_name == "gelu" else activation_name


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
        forward=forward.GEMMA,
    ),
    Family(
        model_type="gemma2",
        entries=(
            *grouped_sizes(kv=4, kv_nullable=False, head=256),
            DIVISIBLE,
            positions(8192),
            *rope(),
            window(4096),
            *layer_types(sliding_except_every(2)),
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
        forward=forward.GEMMA2,
    ),
    Family(
        model_type="gemma3_text",
        folder="gemma3",
        entries=GEMMA3_TEXT,
        parts=_gemma3_text,
        forward=forward.GEMMA3_TEXT,
    ),
)
