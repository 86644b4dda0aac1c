"""StableLM: partial rotary embeddings, LayerNorm, a gated MLP, in sequence with attention or in parallel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.module import norm
from calculator.families.blocks import PRE_NORMS, Owned, attention, decoder, gated_mlp, norms, uniform_layers
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    activation,
    derived,
    dropouts,
    flag,
    given_head_dim,
    kv_heads,
    layers,
    number,
    padding,
    positions,
    share_of_hidden,
    size,
    tie,
)
from calculator.families.rope import rope
from calculator.families.stablelm import forward

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import LayerKind
    from calculator.architecture.module import Module


def _head_norms(config: Config, name: str, heads: str) -> tuple[Module, ...]:
    """Return one norm per head."""
    numbers = range(config[heads])
    return tuple(norm(f"self_attn.{name}_layernorm.norms.{index}", config["head_dim"]) for index in numbers)


def _stablelm(config: Config) -> Parts:
    def layer(_kind: LayerKind) -> Owned:
        normed = config["qk_layernorm"]
        return (
            *attention(config, qkv_bias=config["use_qkv_bias"]),
            *(_head_norms(config, "q", "num_attention_heads") if normed else ()),
            *(_head_norms(config, "k", "num_key_value_heads") if normed else ()),
            *gated_mlp(config),
            *norms(config, *(PRE_NORMS[:1] if config["use_parallel_residual"] else PRE_NORMS), bias=True),
        )

    return decoder(config, uniform_layers(config), layer, norm_bias=True)


FAMILIES = (
    Family(
        model_type="stablelm",
        entries=(
            size("vocab_size"),
            size("hidden_size"),
            size("intermediate_size"),
            layers(),
            size("num_attention_heads", maximum=4096),
            *kv_heads(32, nullable=False),
            derived("head_dim", share_of_hidden),
            flag("use_cache", True),
            positions(4096),
            *rope(share=0.25, always=True),
            *given_head_dim(),
            activation(),
            number("layer_norm_eps", 1e-5),
            *dropouts("attention_dropout", "hidden_dropout"),
            flag("use_qkv_bias", False),
            flag("qk_layernorm", False),
            flag("use_parallel_residual", False),
            tie(default=False),
            *padding(),
        ),
        parts=_stablelm,
        forward=forward.STABLELM,
    ),
)
