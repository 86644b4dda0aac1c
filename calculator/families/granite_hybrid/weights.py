"""Granite 4: layers of Mamba 2 or attention, then a shared MLP, with or without experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Check, Computed, ContradictionError, Field, shown
from calculator.architecture.dimension import Dim
from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.module import Module, bare, conv1d_of_channels, linear, norm
from calculator.families.blocks import PRE_NORMS, Owned, attention, decoder, fused_experts, norms, router
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    activation,
    count,
    dropouts,
    flag,
    grouped_sizes,
    number,
    padding,
    positions,
    size,
    tie,
)
from calculator.families.granite_hybrid import forward
from calculator.families.rope import frequencies, rope

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import MixerType, MlpType

#: How files spell the types of layers.
_TYPES: dict[str, MixerType] = {
    "mamba": "linear_attention",
    "linear_attention": "linear_attention",
    "attention": "full_attention",
    "full_attention": "full_attention",
}

_MULTIPLIERS = ("embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier")

#: What a GPU may allocate besides, and what an installed package changes.
WITHOUT_KERNELS = (
    "Mamba 2 runs as transformers' own PyTorch code. With the packages mamba-ssm and causal-conv1d it needs less;"
    " cuBLAS's and cuDNN's workspaces for it are not counted."
)


def _all_mamba(config: Config) -> tuple[str, ...]:
    return ("linear_attention",) * int(config["num_hidden_layers"])


def _wrong_types(config: Config) -> str | None:
    types, expected = config["layer_types"], config["num_hidden_layers"]
    if len(types) != expected:
        return f"lists {len(types):,} layers, but num_hidden_layers is {shown(expected)}"
    unknown = next((each for each in types if each not in _TYPES), None)
    return None if unknown is None else f"{shown(unknown)} is none of {', '.join(_TYPES)}"


def _inner(config: Config) -> int:
    return int(config["mamba_expand"]) * int(config["hidden_size"])


def _head(config: Config) -> int:
    given = config["mamba_d_head"]
    if given in ("auto", None):
        return Dim(max(1, _inner(config) // int(config["mamba_n_heads"])), "mamba_d_head")
    if not isinstance(given, int) or given < 1:
        raise ContradictionError("mamba_d_head", f"must be a whole number above 0, or auto, not {shown(given)}")
    return Dim(given, "mamba_d_head")


def _wrong_heads(config: Config) -> str | None:
    heads, head, inner = config["mamba_n_heads"], config["mamba_d_head"], _inner(config)
    if heads * head == inner:
        return None
    return f"{shown(heads)} heads of {shown(head)} are not mamba_expand × hidden_size, {inner:,}"


def _wrong_groups(config: Config) -> str | None:
    heads, groups = config["mamba_n_heads"], config["mamba_n_groups"]
    return f"{shown(heads)} heads do not divide into {shown(groups)} groups" if heads % groups else None


def _too_few(config: Config) -> str | None:
    chosen, among = config["num_experts_per_tok"], config["num_experts"]
    if not among or 0 < chosen <= among:
        return None
    return f"{shown(chosen)} experts a token are not from 1 to the {shown(among)} experts"


def _mamba(config: Config) -> Owned:
    hidden, heads, inner = config["hidden_size"], config["mamba_n_heads"], _inner(config)
    channels, bias = inner + 2 * config["mamba_n_groups"] * config["mamba_d_state"], config["mamba_proj_bias"]
    return (
        bare("mamba", "other", dt_bias=(heads,), A_log=(heads,), D=(heads,)),
        conv1d_of_channels("mamba.conv1d", channels, config["mamba_d_conv"], bias=config["mamba_conv_bias"]),
        linear("mamba.in_proj", hidden, inner + channels + heads, bias=bias),
        norm("mamba.norm", inner),
        linear("mamba.out_proj", inner, hidden, bias=bias),
    )


def _shared(config: Config) -> tuple[Module, ...]:
    hidden, inner = config["hidden_size"], config["shared_intermediate_size"]
    return (linear("shared_mlp.input_linear", hidden, 2 * inner), linear("shared_mlp.output_linear", inner, hidden))


def _granitemoehybrid(config: Config) -> Parts:
    def layer(kind: LayerKind) -> Owned:
        bias = config["attention_bias"]
        experts = (
            router(config, "block_sparse_moe.router"),
            fused_experts(config, "intermediate_size", "block_sparse_moe.experts"),
        )
        mixer = (
            _mamba(config) if kind.attention == "linear_attention" else attention(config, qkv_bias=bias, o_bias=bias)
        )
        return (*norms(config, *PRE_NORMS), *(experts if config["num_experts"] else ()), *_shared(config), *mixer)

    rotated = config["position_embedding_type"] == "rope"
    mlp: MlpType = "sparse" if config["num_experts"] else "dense"
    kinds = {name: LayerKind(attention=kind, mlp=mlp, rotated=rotated) for name, kind in _TYPES.items()}
    rotary = frequencies("model.rotary_emb", config["rotary_dim"]) if rotated else ()
    return decoder(config, [kinds[name] for name in config["layer_types"]], layer, rotary=rotary)


FAMILIES = (
    Family(
        model_type="granitemoehybrid",
        entries=(
            *grouped_sizes(),
            positions(2048),
            *rope(),
            activation(),
            number("rms_norm_eps", 1e-6),
            flag("attention_bias", False),
            *dropouts("attention_dropout", nullable=True),
            *(number(name, 1.0, nullable=True) for name in _MULTIPLIERS),
            count("num_experts", 8, spelled="num_local_experts"),
            count("num_experts_per_tok", 2),
            Check(name="num_experts_per_tok", problem=_too_few),
            flag("output_router_logits", False, nullable=True),
            size("shared_intermediate_size", 1024),
            Field(name="position_embedding_type", type="text", default=None, nullable=True),
            Field(name="layer_types", type="names", default=None, nullable=True, null=_all_mamba),
            Check(name="layer_types", problem=_wrong_types),
            Computed(name="layer_types", value=lambda config: tuple(_TYPES[each] for each in config["layer_types"])),
            size("mamba_n_heads", 128),
            size("mamba_n_groups", 1),
            size("mamba_d_state", 256),
            size("mamba_d_conv", 4),
            size("mamba_expand", 2),
            size("mamba_chunk_size", 256),
            Field(name="mamba_d_head", type="pattern", default="auto", nullable=True),
            Computed(name="mamba_d_head", value=_head),
            Check(name="mamba_n_heads", problem=_wrong_heads),
            Check(name="mamba_n_groups", problem=_wrong_groups),
            flag("mamba_conv_bias", True),
            flag("mamba_proj_bias", False),
            tie(default=False),
            *padding(),
        ),
        parts=_granitemoehybrid,
        forward=forward.GRANITE_HYBRID,
        notes=(WITHOUT_KERNELS,),
        adds_router_loss=True,
    ),
)
