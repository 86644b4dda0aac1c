"""Granite 4: layers of Mamba 2 or attention, then a shared MLP, with or without experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Check, Computed, Field
from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.module import Module, linear
from calculator.common.errors import shown
from calculator.families.blocks import PRE_NORMS, Owned, attention, decoder, fused_experts, norms, router
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    activation,
    count,
    dropouts,
    flag,
    grouped_sizes,
    listed_layer_types,
    number,
    padding,
    positions,
    size,
    tie,
)
from calculator.families.granite_hybrid import forward
from calculator.families.mamba import WITHOUT_KERNELS, mamba_fields, mixer
from calculator.families.rope import frequencies, rope

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import MixerType, MlpType

#: The names of layer types in files.
_TYPES: dict[str, MixerType] = {
    "mamba": "linear_attention",
    "linear_attention": "linear_attention",
    "attention": "full_attention",
    "full_attention": "full_attention",
}

_MULTIPLIERS = ("embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier")


def _all_mamba(config: Config) -> tuple[str, ...]:
    return ("linear_attention",) * int(config["num_hidden_layers"])


def _types(config: Config) -> tuple[str, ...]:
    """Return the current names of the layer types. The check refuses unknown names."""
    return tuple(_TYPES.get(kind, kind) for kind in config["layer_types"])


def _too_few(config: Config) -> str | None:
    chosen, among = config["num_experts_per_tok"], config["num_experts"]
    if not among or 0 < chosen <= among:
        return None
    return f"{shown(chosen)} experts per token are not from 1 to the {shown(among)} experts"


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
        mixing = (
            mixer(config) if kind.attention == "linear_attention" else attention(config, qkv_bias=bias, o_bias=bias)
        )
        return (*norms(config, *PRE_NORMS), *(experts if config["num_experts"] else ()), *_shared(config), *mixing)

    rotated = config["position_embedding_type"] == "rope"
    mlp: MlpType = "sparse" if config["num_experts"] else "dense"
    kinds = {name: LayerKind(attention=kind, mlp=mlp, rotated=rotated) for name, kind in _TYPES.items()}
    rotary = frequencies("model.rotary_emb", config["rotary_dim"]) if rotated else ()
    return decoder(config, [kinds[name] for name in config["layer_types"]], layer, rotary=rotary)


FAMILIES = (
    Family(
        model_type="granitemoehybrid",
        entries=(
            *grouped_sizes(head_nullable=False),
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
            number("router_aux_loss_coef", 0.001, nullable=True),
            size("shared_intermediate_size", 1024),
            Field(name="position_embedding_type", type="text", default=None, nullable=True),
            Field(name="layer_types", type="names", default=None, nullable=True, null=_all_mamba),
            listed_layer_types(tuple(_TYPES)),
            Computed(name="layer_types", value=_types),
            *mamba_fields(),
            tie(default=False),
            *padding(),
        ),
        parts=_granitemoehybrid,
        forward=forward.GRANITE_HYBRID,
        notes=(WITHOUT_KERNELS,),
        adds_router_loss=True,
    ),
)
