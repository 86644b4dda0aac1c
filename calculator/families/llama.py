"""Llama and the families with its block: RMSNorm, grouped-query attention with rotary embeddings, a gated MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.families.blocks import alike, attention, decoder, gated_mlp, norms
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    GROUPS,
    USED_WINDOW,
    activation,
    divisible,
    dropout,
    flag,
    heads_for,
    layer_types,
    layers,
    number,
    padding,
    positions,
    size,
    width_of_a_head,
    window,
)
from calculator.families.rope import rope, rotary_buffers
from calculator.module import Module, norm

if TYPE_CHECKING:
    from calculator.config import Config, Entry


def sizes(head_dim: int | None = None, kv_heads: int | None = None, *, kv_nullable: bool = True) -> tuple[Entry, ...]:
    """The sizes of a decoder with grouped key/value heads; None means derived where the file leaves it out."""
    null_kv = heads_for() if kv_nullable else None
    null_head = width_of_a_head if head_dim is None else None
    return (
        size("vocab_size"),
        size("hidden_size"),
        size("intermediate_size"),
        layers(),
        size("num_attention_heads"),
        size("num_key_value_heads", kv_heads, nullable=kv_nullable, null=null_kv),
        GROUPS,
        size("head_dim", head_dim, nullable=head_dim is None, null=null_head),
        flag("use_cache", True),
        number("initializer_range", 0.02),
    )


LLAMA = (
    *sizes(),
    divisible("hidden_size", "num_attention_heads"),
    positions(2048),
    *rope(),
    activation(),
    number("rms_norm_eps", 1e-6),
    dropout("attention_dropout", nullable=True),
    flag("attention_bias", False),
    flag("mlp_bias", False),
    flag("tie_word_embeddings", False),
    *padding(),
)

MISTRAL = (
    *sizes(kv_heads=8, kv_nullable=False),
    positions(4096 * 32),
    *rope(),
    window(4096),
    activation(),
    number("rms_norm_eps", 1e-6),
    dropout("attention_dropout"),
    flag("tie_word_embeddings", False),
    *padding(),
)

_QWEN = (
    positions(32_768),
    *rope(),
    flag("use_sliding_window", False),
    window(4096),
    USED_WINDOW,
    size("max_window_layers", 28),
    *layer_types(lambda config, index: config["sliding_window"] is not None and index >= config["max_window_layers"]),
    activation(),
    number("rms_norm_eps", 1e-6),
    dropout("attention_dropout"),
    flag("tie_word_embeddings", False),
    *padding(),
)

QWEN2 = (*sizes(kv_heads=32), *_QWEN)

QWEN3 = (*sizes(kv_heads=32, head_dim=128), flag("attention_bias", False), *_QWEN)


def window_kinds(config: Config) -> tuple[str, ...]:
    """One attention type for all layers: sliding where there is a window."""
    return alike(config, "sliding_attention" if config["sliding_window"] else "full_attention")


def _llama(config: Config) -> Parts:
    def layer(_kind: str) -> tuple[Module, ...]:
        bias = config["attention_bias"]
        return (
            *attention(config, qkv_bias=bias, o_bias=bias),
            *gated_mlp(config, bias=config["mlp_bias"]),
            *norms(config, "input_layernorm", "post_attention_layernorm"),
        )

    return decoder(config, alike(config), layer)


def _mistral(config: Config) -> Parts:
    def layer(_kind: str) -> tuple[Module, ...]:
        pair = norms(config, "input_layernorm", "post_attention_layernorm")
        return (*attention(config), *gated_mlp(config), *pair)

    return decoder(config, window_kinds(config), layer)


def _qwen2(config: Config) -> Parts:
    def layer(_kind: str) -> tuple[Module, ...]:
        pair = norms(config, "input_layernorm", "post_attention_layernorm")
        return (*attention(config, qkv_bias=True), *gated_mlp(config), *pair)

    return decoder(config, config["layer_types"], layer)


def _qwen3(config: Config) -> Parts:
    def layer(_kind: str) -> tuple[Module, ...]:
        bias, head = config["attention_bias"], config["head_dim"]
        return (
            *attention(config, qkv_bias=bias, o_bias=bias),
            norm("self_attn.q_norm", head),
            norm("self_attn.k_norm", head),
            *gated_mlp(config),
            *norms(config, "input_layernorm", "post_attention_layernorm"),
        )

    return decoder(config, config["layer_types"], layer)


FAMILIES = (
    Family(
        model_type="llama",
        source="transformers/models/llama/modeling_llama.py",
        entries=LLAMA,
        parts=_llama,
        buffers=rotary_buffers,
    ),
    Family(
        model_type="mistral",
        source="transformers/models/mistral/modeling_mistral.py",
        entries=MISTRAL,
        parts=_mistral,
        buffers=rotary_buffers,
    ),
    Family(
        model_type="qwen2",
        source="transformers/models/qwen2/modeling_qwen2.py",
        entries=QWEN2,
        parts=_qwen2,
        buffers=rotary_buffers,
    ),
    Family(
        model_type="qwen3",
        source="transformers/models/qwen3/modeling_qwen3.py",
        entries=QWEN3,
        parts=_qwen3,
        buffers=rotary_buffers,
    ),
)
