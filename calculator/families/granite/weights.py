"""Granite: Llama's block with multipliers on embeddings, residuals, attention and logits; also with experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.layer_kind import LayerKind
from calculator.families.blocks import (
    PRE_NORMS,
    Owned,
    attention,
    decoder,
    fused_experts,
    gated_mlp,
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
)
from calculator.families.granite import forward
from calculator.families.rope import rope

if TYPE_CHECKING:
    from calculator.architecture.config import Config, Entry

_MULTIPLIERS = ("embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier")

_COMMON: tuple[Entry, ...] = (
    *grouped_sizes(head_nullable=False),
    positions(2048),
    *rope(),
    activation(),
    number("rms_norm_eps", 1e-6),
    flag("attention_bias", False),
    tie(default=False),
    *padding(),
)


def _granite(config: Config) -> Parts:
    def layer(_kind: LayerKind) -> Owned:
        bias = config["attention_bias"]
        return (
            *attention(config, qkv_bias=bias, o_bias=bias),
            *gated_mlp(config, bias=config["mlp_bias"]),
            *norms(config, *PRE_NORMS),
        )

    return decoder(config, uniform_layers(config), layer)


def _granitemoe(config: Config) -> Parts:
    def layer(_kind: LayerKind) -> Owned:
        bias = config["attention_bias"]
        return (
            *attention(config, qkv_bias=bias, o_bias=bias),
            *norms(config, *PRE_NORMS),
            router(config, "block_sparse_moe.router"),
            fused_experts(config, "intermediate_size", "block_sparse_moe.experts"),
        )

    return decoder(config, uniform_layers(config, LayerKind(mlp="sparse")), layer)


FAMILIES = (
    Family(
        model_type="granite",
        entries=(
            *_COMMON,
            *dropouts("attention_dropout"),
            flag("mlp_bias", False),
            *(number(name, 1.0) for name in _MULTIPLIERS),
        ),
        parts=_granite,
        forward=forward.GRANITE,
    ),
    Family(
        model_type="granitemoe",
        entries=(
            *_COMMON,
            *dropouts("attention_dropout", nullable=True),
            *experts(2, spelled="num_local_experts"),
            *(number(name, 1.0, nullable=True) for name in _MULTIPLIERS),
        ),
        parts=_granitemoe,
        forward=forward.GRANITEMOE,
        adds_router_loss=True,
    ),
)
