"""Jamba: layers of Mamba or of attention without positions, each with a gated MLP or experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.architecture.config import Check, Computed, ContradictionError, Field
from calculator.architecture.dimension import Dim
from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.model import stack
from calculator.architecture.module import bare, conv1d_of_channels, embedding, linear, norm
from calculator.common.errors import shown
from calculator.families.blocks import Owned, attention, fused_experts, gated_mlp, norms, router
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    activation,
    count,
    dropouts,
    experts,
    flag,
    grouped_sizes,
    number,
    padding,
    positions,
    size,
    tie,
)
from calculator.families.jamba import forward

if TYPE_CHECKING:
    from calculator.architecture.config import Config

#: A note on other allocations of a GPU, and on the effect of an installed package.
WITHOUT_KERNELS = (
    "Mamba runs as transformers' own PyTorch code, one position after the other. With the packages mamba-ssm and"
    " causal-conv1d it needs far less; cuDNN's workspace for it is not counted."
)


def _rank(config: Config) -> int:
    """Return the width of the projection of the time step. The default is a sixteenth of the hidden size."""
    given: Any = config["mamba_dt_rank"]
    if given == "auto":
        return Dim(-(-int(config["hidden_size"]) // 16), "mamba_dt_rank")
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise ContradictionError("mamba_dt_rank", f"must be a whole number above 0, or auto, not {shown(given)}")
    return Dim(given, "mamba_dt_rank")


def _offset_below_period(offset: str, period: str) -> Check:
    def problem(config: Config) -> str | None:
        first, every = config[offset], config[period]
        return f"{shown(first)} must be smaller than {period}, {shown(every)}" if first >= every else None

    return Check(name=offset, problem=problem)


def _mixer(config: Config) -> Owned:
    hidden, rank, states = config["hidden_size"], config["mamba_dt_rank"], config["mamba_d_state"]
    inner, bias = (
        Dim(int(config["mamba_expand"]) * int(hidden), "mamba_expand · hidden_size"),
        config["mamba_proj_bias"],
    )
    return (
        bare("mamba", "other", A_log=(inner, states), D=(inner,)),
        conv1d_of_channels("mamba.conv1d", inner, config["mamba_d_conv"], bias=config["mamba_conv_bias"]),
        linear("mamba.in_proj", hidden, 2 * inner, bias=bias),
        linear("mamba.x_proj", inner, rank + 2 * states),
        linear("mamba.dt_proj", rank, inner, bias=True),
        linear("mamba.out_proj", inner, hidden, bias=bias),
        norm("mamba.dt_layernorm", rank),
        norm("mamba.b_layernorm", states),
        norm("mamba.c_layernorm", states),
    )


def _experts(config: Config) -> Owned:
    return (
        router(config, "feed_forward.router"),
        fused_experts(config, "intermediate_size", "feed_forward.experts"),
    )


def _kind(config: Config, index: int) -> LayerKind:
    attends = index % config["attn_layer_period"] == config["attn_layer_offset"]
    sparse = config["num_experts"] > 1 and index % config["expert_layer_period"] == config["expert_layer_offset"]
    return LayerKind(
        attention="full_attention" if attends else "linear_attention",
        mlp="sparse" if sparse else "dense",
        rotated=False,
    )


def _jamba(config: Config) -> Parts:
    vocabulary, hidden = config["vocab_size"], config["hidden_size"]

    def layer(kind: LayerKind) -> Owned:
        return (
            *(_mixer(config) if kind.attention == "linear_attention" else attention(config)),
            *(_experts(config) if kind.mlp == "sparse" else gated_mlp(config, name="feed_forward")),
            *norms(config, "input_layernorm", "pre_ff_layernorm"),
        )

    return (
        embedding("model.embed_tokens", vocabulary, hidden),
        stack("model.layers", [_kind(config, index) for index in range(config["num_hidden_layers"])], layer),
        norm("model.final_layernorm", hidden),
        linear("lm_head", hidden, vocabulary),
    )


FAMILIES = (
    Family(
        model_type="jamba",
        entries=(
            *grouped_sizes(kv=8, head_nullable=False),
            positions(262_144),
            activation(),
            number("rms_norm_eps", 1e-6),
            *dropouts("attention_dropout"),
            *experts(2, aliases=("num_local_experts",)),
            size("expert_layer_period", 2),
            count("expert_layer_offset", 1),
            size("attn_layer_period", 8),
            count("attn_layer_offset", 4),
            _offset_below_period("expert_layer_offset", "expert_layer_period"),
            _offset_below_period("attn_layer_offset", "attn_layer_period"),
            size("mamba_d_state", 16),
            size("mamba_d_conv", 4),
            size("mamba_expand", 2),
            Field(name="mamba_dt_rank", type="pattern", default="auto"),
            Computed(name="mamba_dt_rank", value=_rank),
            flag("mamba_conv_bias", True),
            flag("mamba_proj_bias", False),
            tie(default=False),
            *padding(0),
        ),
        parts=_jamba,
        forward=forward.JAMBA,
        adds_router_loss=True,
        notes=(WITHOUT_KERNELS,),
    ),
)
