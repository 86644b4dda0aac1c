"""Qwen 2 and 3, dense and with experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Computed, Field
from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.module import Module, linear, norm
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
    size,
    tie,
)
from calculator.families.qwen import forward
from calculator.families.rope import rope
from calculator.families.windows import attention_type, layer_types, switched_window

if TYPE_CHECKING:
    from calculator.architecture.config import Config, Entry

_COMMON = (
    positions(32_768),
    *rope(),
    activation(),
    number("rms_norm_eps", 1e-6),
    *dropouts("attention_dropout"),
    tie(default=False),
    *padding(),
)

_WINDOWS = (
    *switched_window(4096),
    size("max_window_layers", 28, minimum=0),
    *layer_types(lambda config, index: config["sliding_window"] is not None and index >= config["max_window_layers"]),
)


def sparse_fields(*, norm_topk_prob: bool = False) -> tuple[Entry, ...]:
    """Return the fields for layers with experts, for their width, and for whether a token's weights sum to 1."""
    return (
        size("decoder_sparse_step", 1),
        size("moe_intermediate_size"),
        flag("norm_topk_prob", norm_topk_prob),
        Field(name="mlp_only_layers", type="indices", default=None, nullable=True, null=lambda _config: ()),
    )


def sparse_kinds(config: Config) -> tuple[LayerKind, ...]:
    """Return the kinds of layers. Each `decoder_sparse_step`-th one has experts, except those in `mlp_only_layers`."""
    dense, step = frozenset(config["mlp_only_layers"]), int(config["decoder_sparse_step"])
    return tuple(
        LayerKind(attention=attention, mlp="dense" if index in dense or (index + 1) % step else "sparse")
        for index, attention in enumerate(config["layer_types"])
    )


def _same_window(config: Config) -> tuple[str, ...]:
    return (attention_type(config),) * int(config["num_hidden_layers"])


def _even_below_max_window(config: Config, index: int) -> bool:
    return config["use_sliding_window"] and index % 2 == 0 and index < config["max_window_layers"]


def _qk_norms(config: Config) -> tuple[Module, ...]:
    return (norm("self_attn.q_norm", config["head_dim"]), norm("self_attn.k_norm", config["head_dim"]))


def qwen2_layer(config: Config) -> Owned:
    """Return a layer of Qwen 2, which Qwen 2.5 VL's text model also has."""
    return (*attention(config, qkv_bias=True), *gated_mlp(config), *norms(config, *PRE_NORMS))


def qwen3_layer(config: Config) -> Owned:
    """Return a dense layer of Qwen 3, which Qwen 3 VL's text model also has."""
    bias = config["attention_bias"]
    return (
        *attention(config, qkv_bias=bias, o_bias=bias),
        *_qk_norms(config),
        *gated_mlp(config),
        *norms(config, *PRE_NORMS),
    )


def _qwen2(config: Config) -> Parts:
    return decoder(config, kinds_by_attention(config), lambda _kind: qwen2_layer(config))


def _qwen3(config: Config) -> Parts:
    return decoder(config, kinds_by_attention(config), lambda _kind: qwen3_layer(config))


def _qwen2_moe(config: Config) -> Parts:
    def sparse() -> Owned:
        return (
            router(config),
            fused_experts(config, "moe_intermediate_size"),
            *gated_mlp(config, name="mlp.shared_expert", width="shared_expert_intermediate_size"),
            linear("mlp.shared_expert_gate", config["hidden_size"], 1),
        )

    def layer(kind: LayerKind) -> Owned:
        mlp = sparse() if kind.mlp == "sparse" else gated_mlp(config)
        return (*attention(config, qkv_bias=config["qkv_bias"]), *mlp, *norms(config, *PRE_NORMS))

    return decoder(config, sparse_kinds(config), layer)


def qwen3_moe_layer(config: Config, kind: LayerKind) -> Owned:
    """Return a layer of Qwen 3 with or without experts, which Qwen 3 VL's text model also has."""
    bias = config["attention_bias"]
    sparse = (fused_experts(config, "moe_intermediate_size"), router(config))
    mlp = sparse if kind.mlp == "sparse" else gated_mlp(config)
    heads = attention(config, qkv_bias=bias, o_bias=bias)
    return (*heads, *_qk_norms(config), *mlp, *norms(config, *PRE_NORMS))


def _qwen3_moe(config: Config) -> Parts:
    return decoder(config, sparse_kinds(config), lambda kind: qwen3_moe_layer(config, kind))


FAMILIES = (
    Family(
        model_type="qwen2",
        entries=(*grouped_sizes(kv=32, head_nullable=False), *_WINDOWS, *_COMMON),
        parts=_qwen2,
        forward=forward.QWEN2,
    ),
    Family(
        model_type="qwen3",
        entries=(*grouped_sizes(kv=32, head=128), flag("attention_bias", False), *_WINDOWS, *_COMMON),
        parts=_qwen3,
        forward=forward.QWEN3,
    ),
    Family(
        model_type="qwen2_moe",
        entries=(
            *grouped_sizes(kv=16, kv_nullable=False, head_nullable=False),
            *switched_window(4096, unused=0),
            size("max_window_layers", 28, minimum=0),
            *layer_types(_even_below_max_window),
            *experts(4),
            *sparse_fields(),
            size("shared_expert_intermediate_size"),
            flag("qkv_bias", True),
            *_COMMON,
        ),
        parts=_qwen2_moe,
        forward=forward.QWEN2_MOE,
        adds_router_loss=True,
    ),
    Family(
        model_type="qwen3_moe",
        entries=(
            *grouped_sizes(kv=4, kv_nullable=False, head_nullable=False),
            *switched_window(4096),
            Computed(name="layer_types", value=_same_window),
            *experts(8, aliases=("num_local_experts",)),
            *sparse_fields(),
            flag("attention_bias", False),
            *_COMMON,
        ),
        parts=_qwen3_moe,
        forward=forward.QWEN3_MOE,
        adds_router_loss=True,
    ),
)
