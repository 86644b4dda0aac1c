"""DeepSeek V2 and V3: latent attention, a few dense layers, then layers with routed and shared experts; Youtu."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import REQUIRED, Check, Field
from calculator.architecture.layer_kind import LayerKind
from calculator.families.blocks import PRE_NORMS, Owned, decoder, gated_mlp, norms, uniform_layers
from calculator.families.deepseek import forward
from calculator.families.deepseek.latent import (
    corrected_mixture,
    expert_groups,
    latent_attention,
    latent_fields,
    mixture,
    routed_experts,
    shared_experts,
)
from calculator.families.family import Family, Parts
from calculator.families.fields import DIVISIBLE, count, experts, flag, given_head_dim, kv_heads, positions, size, tie

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.config import Config, Entry


def _groupless(config: Config) -> str | None:
    limited = config["topk_method"] == "group_limited_greedy" and None in (config["n_group"], config["topk_group"])
    return "group_limited_greedy needs n_group and topk_group" if limited else None


def _parts(config: Config, sparse: Callable[[Config], Owned] = mixture) -> Parts:
    def layer(kind: LayerKind) -> Owned:
        dense = kind.mlp == "dense"
        mlp = gated_mlp(config, bias=config.get("mlp_bias", False)) if dense else sparse(config)
        return (*latent_attention(config), *mlp, *norms(config, *PRE_NORMS))

    total = int(config["num_hidden_layers"])
    dense = min(config["first_k_dense_replace"], total)
    kinds = (LayerKind(mlp="dense"),) * dense + (LayerKind(mlp="sparse"),) * (total - dense)
    return decoder(config, kinds, layer)


def _deepseek_v3(config: Config) -> Parts:
    return _parts(config, corrected_mixture)


def _youtu(config: Config) -> Parts:
    def layer(_kind: LayerKind) -> Owned:
        return (*latent_attention(config), *gated_mlp(config), *norms(config, *PRE_NORMS))

    return decoder(config, uniform_layers(config), layer)


_MOE: tuple[Entry, ...] = (
    *latent_fields(),
    size("intermediate_size"),
    size("moe_intermediate_size"),
    tie(default=False),
)


FAMILIES = (
    Family(
        model_type="deepseek_v2",
        entries=(
            *_MOE,
            DIVISIBLE,
            *kv_heads(),
            positions(2048),
            flag("mlp_bias", False),
            *experts(REQUIRED, spelled="n_routed_experts", aliases=("num_experts",), router_loss=None),
            *shared_experts(2),
            *expert_groups(None, None, nullable=True),
            Field(name="topk_method", type="text", default="greedy", choices=("greedy", "group_limited_greedy")),
            Check(name="topk_method", problem=_groupless),
            flag("norm_topk_prob", False, nullable=True),
            count("first_k_dense_replace", 0),
        ),
        parts=_parts,
        forward=forward.DEEPSEEK_V2,
    ),
    Family(
        model_type="deepseek_v3",
        entries=(
            *_MOE,
            *given_head_dim(),
            *kv_heads(128),
            positions(4096),
            *routed_experts(8, groups=(8, 4)),
            flag("rope_interleave", True, nullable=True),
            count("first_k_dense_replace", 3),
        ),
        parts=_deepseek_v3,
        forward=forward.DEEPSEEK_V3,
    ),
    Family(
        model_type="youtu",
        entries=(
            *latent_fields(),
            *given_head_dim(),
            size("intermediate_size"),
            *kv_heads(16),
            positions(131_072),
            flag("rope_interleave", True, nullable=True),
            tie(default=True),
        ),
        parts=_youtu,
        forward=forward.YOUTU,
    ),
)
