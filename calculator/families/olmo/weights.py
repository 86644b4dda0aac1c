"""OLMo (norms without weights), OLMo 2 and 3 (norms after sublayers, over whole queries and keys), and OLMoE."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.config import Check
from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.model import stack
from calculator.architecture.module import embedding, linear, norm
from calculator.families.blocks import (
    PRE_NORMS,
    Owned,
    attention,
    decoder,
    fused_experts,
    gated_mlp,
    kinds_by_attention,
    norms,
    router,
    uniform_layers,
)
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    activation,
    dropouts,
    experts,
    flag,
    grouped_sizes,
    number,
    padding,
    positions,
    tie,
    uneven_heads,
)
from calculator.families.olmo import forward
from calculator.families.rope import frequencies, frequencies_per_type, rope, rope_per_type
from calculator.families.windows import layer_types, sliding_except_every, window

if TYPE_CHECKING:
    from calculator.architecture.config import Config, Entry
    from calculator.architecture.module import Module

POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")

_COMMON: tuple[Entry, ...] = (
    *grouped_sizes(head_nullable=False),
    activation(),
    *dropouts("attention_dropout"),
    flag("attention_bias", False),
    tie(default=False),
    *padding(1),
)


def _biased_attention(config: Config) -> tuple[Module, ...]:
    return attention(config, qkv_bias=config["attention_bias"], o_bias=config["attention_bias"])


def _whole_norms(config: Config) -> tuple[Module, ...]:
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    return (norm("self_attn.q_norm", queries), norm("self_attn.k_norm", keys))


def _olmo(config: Config) -> Parts:
    vocabulary, hidden = config["vocab_size"], config["hidden_size"]
    return (
        embedding("model.embed_tokens", vocabulary, hidden),
        stack("model.layers", _olmo_kinds(config), lambda kind: _olmo_layer(config, kind)),
        *frequencies("model.rotary_emb", config["rotary_dim"]),
        linear("lm_head", hidden, vocabulary),
    )


def _olmo_kinds(config: Config) -> tuple[LayerKind, ...]:
    """Return the kinds of layers. If the head is tied, the last layer has a kind of its own.

    The model's last weight is then its down_proj, which is not quantized.

    Source: transformers/quantizers/base.py, get_keys_to_not_convert.
    """
    kinds = uniform_layers(config)
    return (*kinds[:-1], LayerKind(end="last")) if config["tie_word_embeddings"] else kinds


def _olmo_layer(config: Config, kind: LayerKind) -> Owned:
    *mlp, down = gated_mlp(config)
    return (*_biased_attention(config), *mlp, replace(down, quantizable=kind.end != "last", is_last=kind.end == "last"))


def _post_norm_layer(config: Config) -> Owned:
    return (
        *_biased_attention(config),
        *_whole_norms(config),
        *gated_mlp(config),
        *norms(config, *POST_NORMS),
    )


def _olmo2(config: Config) -> Parts:
    return decoder(config, uniform_layers(config), lambda _kind: _post_norm_layer(config))


def _olmo3(config: Config) -> Parts:
    rotary = frequencies_per_type(config, "model.rotary_emb")
    return decoder(config, kinds_by_attention(config), lambda _kind: _post_norm_layer(config), rotary=rotary)


def _olmoe(config: Config) -> Parts:
    def layer(_kind: LayerKind) -> Owned:
        return (
            *_biased_attention(config),
            *_whole_norms(config),
            router(config),
            fused_experts(config, "intermediate_size"),
            *norms(config, *PRE_NORMS),
        )

    return decoder(config, uniform_layers(config, LayerKind(mlp="sparse")), layer)


FAMILIES = (
    Family(
        model_type="olmo",
        entries=(*_COMMON, positions(2048), *rope(), number("clip_qkv", None, nullable=True)),
        parts=_olmo,
        forward=forward.OLMO,
    ),
    Family(
        model_type="olmo2",
        entries=(*_COMMON, positions(2048), *rope(), number("rms_norm_eps", 1e-5)),
        parts=_olmo2,
        forward=forward.OLMO2,
    ),
    Family(
        model_type="olmo3",
        entries=(
            *_COMMON,
            positions(2048),
            window(4096),
            *layer_types(sliding_except_every(4)),
            *rope_per_type(theta=500_000.0),
            number("rms_norm_eps", 1e-5),
        ),
        parts=_olmo3,
        forward=forward.OLMO3,
    ),
    Family(
        model_type="olmoe",
        entries=(
            *_COMMON,
            positions(4096),
            *rope(),
            number("rms_norm_eps", 1e-5),
            number("clip_qkv", None, nullable=True),
            Check(name="head_dim", problem=uneven_heads),
            *experts(8, aliases=("num_local_experts",), router_loss=0.01),
            flag("norm_topk_prob", False),
        ),
        parts=_olmoe,
        forward=forward.OLMOE,
        adds_router_loss=True,
    ),
)
