"""Falcon: 7B (multi-query, attention and MLP in parallel), 40B (grouped, two norms), RW (ALiBi, in sequence)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Computed
from calculator.architecture.model import stack
from calculator.architecture.module import embedding, linear, norm
from calculator.common.errors import shown
from calculator.families.blocks import Owned, norms, uniform_layers
from calculator.families.falcon import forward
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    GROUPS,
    activation,
    count,
    derived,
    dropouts,
    flag,
    given_head_dim,
    heads,
    layers,
    number,
    padding,
    positions,
    share_of_hidden,
    size,
    tie,
)
from calculator.families.rope import frequencies, rope

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import LayerKind


def _kv_heads(config: Config) -> int:
    """Return `num_kv_heads` in the new architecture. In the old one, return one for all query heads or one for each."""
    if config["new_decoder_architecture"]:
        return config["num_key_value_heads"] or heads(config)
    return 1 if config["multi_query"] else heads(config)


def _given_head_dim(config: Config) -> str | None:
    given = config["given_head_dim"]
    return None if given == 0 else f"FalconConfig computes it and raises an error for {shown(given)}: leave it out"


def _norms_in_parallel(config: Config) -> int | None:
    count_of_norms: int | None = config["num_ln_in_parallel_attn"]
    return 2 if count_of_norms is None and config["new_decoder_architecture"] else count_of_norms


def _norm_names(config: Config) -> tuple[str, ...]:
    if not config["parallel_attn"]:
        return ("post_attention_layernorm", "input_layernorm")
    return ("ln_attn", "ln_mlp") if config["num_ln_in_parallel_attn"] == 2 else ("input_layernorm",)


def _falcon(config: Config) -> Parts:
    vocabulary, hidden, inner = config["vocab_size"], config["hidden_size"], config["intermediate_size"]
    fused = hidden + 2 * (config["num_key_value_heads"] * config["head_dim"])

    def layer(_kind: LayerKind) -> Owned:
        bias = config["bias"]
        projections = (
            ("self_attention.query_key_value", hidden, fused),
            ("self_attention.dense", hidden, hidden),
            ("mlp.dense_h_to_4h", hidden, inner),
            ("mlp.dense_4h_to_h", inner, hidden),
        )
        linears = (linear(*projection, bias=bias, quantizable=False, separate_bias=True) for projection in projections)
        return (*linears, *norms(config, *_norm_names(config), bias=True))

    return (
        embedding("transformer.word_embeddings", vocabulary, hidden),
        stack("transformer.h", uniform_layers(config), layer),
        norm("transformer.ln_f", hidden, bias=True),
        *frequencies("transformer.rotary_emb", config["rotary_dim"]),
        linear("lm_head", hidden, vocabulary),
    )


FAMILIES = (
    Family(
        model_type="falcon",
        entries=(
            size("vocab_size"),
            size("hidden_size", aliases=("n_embed",)),
            layers(),
            size("num_attention_heads"),
            derived("head_dim", share_of_hidden),
            *given_head_dim(_given_head_dim, nullable=False),
            size(
                "intermediate_size", None, spelled="ffn_hidden_size", nullable=True, null=lambda c: 4 * c["hidden_size"]
            ),
            flag("new_decoder_architecture", False, nullable=True),
            flag("multi_query", True, nullable=True),
            size("num_key_value_heads", None, spelled="num_kv_heads", nullable=True),
            Computed(name="num_kv_heads", value=lambda c: c["num_key_value_heads"] or heads(c)),
            derived("num_key_value_heads", _kv_heads),
            GROUPS,
            flag("parallel_attn", True, nullable=True),
            count("num_ln_in_parallel_attn", None, nullable=True),
            Computed(name="num_ln_in_parallel_attn", value=_norms_in_parallel),
            flag("alibi", False, nullable=True),
            flag("bias", False, nullable=True),
            flag("use_cache", True),
            positions(2048),
            *rope(),
            activation("gelu", spelled="activation"),
            number("layer_norm_epsilon", 1e-5, nullable=True),
            *dropouts("hidden_dropout", "attention_dropout", nullable=True),
            tie(default=True),
            *padding(),
        ),
        parts=_falcon,
        forward=forward.FALCON,
        tied={"lm_head.weight": "transformer.word_embeddings.weight"},
    ),
)
