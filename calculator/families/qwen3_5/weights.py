"""Qwen 3.5's text models and Qwen3-Next: gated DeltaNet in most layers, gated attention in every fourth layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Check, Computed, Field
from calculator.architecture.module import bare, conv1d_of_channels, linear, norm
from calculator.common.errors import shown
from calculator.families.blocks import (
    PRE_NORMS,
    Owned,
    decoder,
    fused_experts,
    gated_mlp,
    kinds_by_attention,
    norms,
    router,
)
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    activation,
    divisible,
    dropouts,
    experts,
    flag,
    grouped_sizes,
    listed_layer_types,
    number,
    padding,
    positions,
    size,
    tie,
)
from calculator.families.qwen.weights import sparse_fields, sparse_kinds
from calculator.families.qwen3_5 import forward
from calculator.families.rope import rope

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.config import Config, Entry
    from calculator.architecture.layer_kind import LayerKind, MixerType

_TYPES: tuple[MixerType, ...] = ("linear_attention", "full_attention")

#: A note on other allocations of a GPU, and on the effect of an installed package.
WITHOUT_KERNELS = (
    "Gated DeltaNet runs as transformers' own PyTorch code. With the packages flash-linear-attention (fla) and"
    " causal-conv1d it needs less; an estimate of a training step counts them with training.kernels. cuBLAS's and"
    " cuDNN's workspaces for it are not counted."
)


def _usual_types(config: Config) -> tuple[str, ...]:
    count, interval = config["num_hidden_layers"], config["full_attention_interval"]
    return tuple(_TYPES[(index + 1) % interval == 0] for index in range(count))


def _wrong_sections(config: Config) -> str | None:
    sections = config["rope_parameters"].get("mrope_section", (11, 11, 10))
    valid = isinstance(sections, list | tuple) and len(sections) == len(("time", "height", "width"))
    if valid and all(isinstance(section, int) and 0 <= section <= config["head_dim"] for section in sections):
        return None
    return f"mrope_section {shown(sections)} must be three numbers of pairs"


def _delta_net(config: Config, *projections: tuple[str, int]) -> Owned:
    hidden, heads = config["hidden_size"], config["linear_num_value_heads"]
    keys, values = _widths(config)
    return (
        bare("linear_attn", "other", dt_bias=(heads,), A_log=(heads,)),
        conv1d_of_channels("linear_attn.conv1d", keys * 2 + values, config["linear_conv_kernel_dim"], bias=False),
        *(linear(f"linear_attn.{name}", hidden, width) for name, width in projections),
        norm("linear_attn.norm", config["linear_value_head_dim"]),
        linear("linear_attn.out_proj", values, hidden),
    )


def _widths(config: Config) -> tuple[int, int]:
    """Return the width of queries and of keys, and the width of values."""
    keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    return keys, config["linear_num_value_heads"] * config["linear_value_head_dim"]


def _with_own_projections(config: Config) -> Owned:
    """Return gated DeltaNet with four input projections, which come last (Qwen 3.5)."""
    hidden, heads = config["hidden_size"], config["linear_num_value_heads"]
    keys, values = _widths(config)
    return (
        *_delta_net(config),
        linear("linear_attn.in_proj_qkv", hidden, keys * 2 + values),
        linear("linear_attn.in_proj_z", hidden, values),
        linear("linear_attn.in_proj_b", hidden, heads),
        linear("linear_attn.in_proj_a", hidden, heads),
    )


def _with_two_projections(config: Config) -> Owned:
    """Return gated DeltaNet with two input projections (Qwen3-Next)."""
    keys, values = _widths(config)
    return _delta_net(
        config, ("in_proj_qkvz", keys * 2 + values * 2), ("in_proj_ba", config["linear_num_value_heads"] * 2)
    )


def _attention(config: Config) -> Owned:
    hidden, head, bias = config["hidden_size"], config["head_dim"], config["attention_bias"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    return (
        linear("self_attn.q_proj", hidden, queries * 2, bias=bias),
        linear("self_attn.k_proj", hidden, keys, bias=bias),
        linear("self_attn.v_proj", hidden, keys, bias=bias),
        linear("self_attn.o_proj", queries, hidden, bias=bias),
        norm("self_attn.q_norm", head),
        norm("self_attn.k_norm", head),
    )


def _experts(config: Config) -> Owned:
    shared = gated_mlp(config, name="mlp.shared_expert", width="shared_expert_intermediate_size")
    gate = linear("mlp.shared_expert_gate", config["hidden_size"], 1)
    return (router(config), fused_experts(config, "moe_intermediate_size"), *shared, gate)


def _layer(config: Config, kind: LayerKind, delta_net: Callable[[Config], Owned]) -> Owned:
    mixer = delta_net(config) if kind.attention == "linear_attention" else _attention(config)
    mlp = _experts(config) if kind.mlp == "sparse" else gated_mlp(config)
    return (*mixer, *mlp, *norms(config, *PRE_NORMS))


def qwen3_5_layer(config: Config, kind: LayerKind) -> Owned:
    """Return a layer of Qwen 3.5."""
    return _layer(config, kind, _with_own_projections)


def _qwen3_5_text(config: Config) -> Parts:
    return decoder(config, kinds_by_attention(config), lambda kind: qwen3_5_layer(config, kind))


def _qwen3_5_moe_text(config: Config) -> Parts:
    kinds = kinds_by_attention(config, mlp="sparse")
    return decoder(config, kinds, lambda kind: qwen3_5_layer(config, kind))


def _qwen3_next(config: Config) -> Parts:
    return decoder(config, sparse_kinds(config), lambda kind: _layer(config, kind, _with_two_projections))


_SIZES = grouped_sizes(kv=4, kv_nullable=False, head=256)
_SIZES_OF_EXPERTS = tuple(
    entry for entry in grouped_sizes(kv=2, kv_nullable=False, head=256) if entry.name != "intermediate_size"
)

_LAYERS: tuple[Entry, ...] = (
    size("full_attention_interval", 4),
    Field(name="layer_types", type="names", default=None, nullable=True, null=_usual_types),
    listed_layer_types(_TYPES),
    size("linear_conv_kernel_dim", 4),
    size("linear_key_head_dim", 128),
    size("linear_value_head_dim", 128),
    size("linear_num_key_heads", 16),
    size("linear_num_value_heads", 32),
    divisible("linear_num_value_heads", "linear_num_key_heads"),
    activation(),
    number("rms_norm_eps", 1e-6),
    *dropouts("attention_dropout"),
    flag("attention_bias", False),
    tie(default=False),
    *padding(),
)

_ROTARY: tuple[Entry, ...] = (positions(32_768), *rope(share=0.25, always=True))
_SECTIONS = Check(name="rope_parameters", problem=_wrong_sections)

#: The fields of Qwen3_5TextConfig and of Qwen3_5MoeTextConfig.
QWEN3_5_TEXT: tuple[Entry, ...] = (*_SIZES, *_ROTARY, _SECTIONS, *_LAYERS)
QWEN3_5_MOE_TEXT: tuple[Entry, ...] = (
    *_SIZES_OF_EXPERTS,
    *_ROTARY,
    _SECTIONS,
    *_LAYERS,
    *experts(8),
    Computed(name="norm_topk_prob", value=lambda _config: True),
    size("moe_intermediate_size", 512),
    size("shared_expert_intermediate_size", 512),
)

FAMILIES = (
    Family(
        model_type="qwen3_5_text",
        folder="qwen3_5",
        entries=QWEN3_5_TEXT,
        parts=_qwen3_5_text,
        forward=forward.QWEN3_5,
        notes=(WITHOUT_KERNELS,),
    ),
    Family(
        model_type="qwen3_5_moe_text",
        folder="qwen3_5_moe",
        entries=QWEN3_5_MOE_TEXT,
        parts=_qwen3_5_moe_text,
        forward=forward.QWEN3_5_MOE,
        notes=(WITHOUT_KERNELS,),
        adds_router_loss=True,
    ),
    Family(
        model_type="qwen3_next",
        entries=(
            *grouped_sizes(kv=2, kv_nullable=False, head=256),
            *_ROTARY,
            *_LAYERS,
            *experts(10),
            *sparse_fields(norm_topk_prob=True),
            size("shared_expert_intermediate_size", 512),
        ),
        parts=_qwen3_next,
        forward=forward.QWEN3_NEXT,
        notes=(WITHOUT_KERNELS,),
        adds_router_loss=True,
    ),
)
