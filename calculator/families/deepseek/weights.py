"""DeepSeek V2 and V3: latent attention, a few dense layers, then layers with routed and shared experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import REQUIRED, Check, Field, shown
from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.module import Buffer, linear, norm
from calculator.families.blocks import PRE_NORMS, Owned, decoder, fused_experts, gated_mlp, norms, router
from calculator.families.deepseek import forward
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    DIVISIBLE,
    activation,
    count,
    derived,
    dropouts,
    experts,
    flag,
    kv_heads,
    layers,
    number,
    padding,
    positions,
    size,
    tie,
)
from calculator.families.rope import rope

if TYPE_CHECKING:
    from calculator.architecture.config import Config, Entry
    from calculator.architecture.module import Module


def _ungrouped(config: Config) -> str | None:
    groups, among = config["n_group"], config["num_experts"]
    return f"{shown(among)} experts do not divide into {shown(groups)} groups" if groups and among % groups else None


def _too_many_groups(config: Config) -> str | None:
    chosen, groups = config["topk_group"], config["n_group"]
    both = chosen is not None and groups is not None
    return f"{shown(chosen)} groups are more than the {shown(groups)} of n_group" if both and chosen > groups else None


def _groupless(config: Config) -> str | None:
    limited = config["topk_method"] == "group_limited_greedy" and None in (config["n_group"], config["topk_group"])
    return "group_limited_greedy needs n_group and topk_group" if limited else None


def _lonely(config: Config) -> str | None:
    groups = config["n_group"]
    return (
        f"{shown(groups)} groups leave fewer than two experts in each" if config["num_experts"] < 2 * groups else None
    )


_COMMON: tuple[Entry, ...] = (
    size("vocab_size"),
    size("hidden_size"),
    size("intermediate_size"),
    size("moe_intermediate_size"),
    layers(),
    size("num_attention_heads"),
    size("kv_lora_rank", 512),
    size("q_lora_rank", 1536, nullable=True),
    size("qk_nope_head_dim", 128),
    size("qk_rope_head_dim", 64),
    size("v_head_dim", 128),
    derived("qk_head_dim", lambda config: config["qk_nope_head_dim"] + config["qk_rope_head_dim"]),
    derived("head_dim", lambda config: config["qk_rope_head_dim"]),
    *rope(),
    activation(),
    number("rms_norm_eps", 1e-6),
    flag("use_cache", True),
    flag("attention_bias", False),
    *dropouts("attention_dropout", nullable=True),
    tie(default=False),
    *padding(),
)


def _groups(groups: int | None, chosen: int | None, *, nullable: bool) -> tuple[Entry, ...]:
    """The groups of experts: a token's experts are in the best `topk_group` of `n_group`."""
    return (
        size("n_group", groups, nullable=nullable),
        size("topk_group", chosen, nullable=nullable),
        Check(name="n_group", problem=_ungrouped),
        Check(name="topk_group", problem=_too_many_groups),
    )


def _shared(default: int) -> tuple[Entry, ...]:
    """The experts that process every token, as one MLP with the sum of their widths."""
    together = derived("shared_intermediate_size", lambda c: c["n_shared_experts"] * c["moe_intermediate_size"])
    return (size("n_shared_experts", default), together)


def _latent_attention(config: Config) -> tuple[Module, ...]:
    """Low-rank projections to queries, keys and values; a direct one to queries if `q_lora_rank` is null."""
    hidden, heads, bias = config["hidden_size"], config["num_attention_heads"], config["attention_bias"]
    query_rank, rank = config["q_lora_rank"], config["kv_lora_rank"]
    queries = heads * config["qk_head_dim"]
    direct = (linear("self_attn.q_proj", hidden, queries),)
    low_rank = (
        linear("self_attn.q_a_proj", hidden, query_rank, bias=bias),
        norm("self_attn.q_a_layernorm", query_rank),
        linear("self_attn.q_b_proj", query_rank, queries),
    )
    return (
        *(direct if query_rank is None else low_rank),
        linear("self_attn.kv_a_proj_with_mqa", hidden, rank + config["qk_rope_head_dim"], bias=bias),
        norm("self_attn.kv_a_layernorm", rank),
        linear("self_attn.kv_b_proj", rank, heads * (config["qk_nope_head_dim"] + config["v_head_dim"])),
        linear("self_attn.o_proj", heads * config["v_head_dim"], hidden, bias=bias),
    )


def _mixture(config: Config, *correction: Buffer) -> Owned:
    return (
        fused_experts(config, "moe_intermediate_size"),
        router(config, dtype="float32"),
        *correction,
        *gated_mlp(
            config, bias=config.get("mlp_bias", False), name="mlp.shared_experts", width="shared_intermediate_size"
        ),
    )


def _parts(config: Config, *correction: Buffer) -> Parts:
    def layer(kind: LayerKind) -> Owned:
        dense = kind.mlp == "dense"
        mlp = gated_mlp(config, bias=config.get("mlp_bias", False)) if dense else _mixture(config, *correction)
        return (*_latent_attention(config), *mlp, *norms(config, *PRE_NORMS))

    total = int(config["num_hidden_layers"])
    dense = min(config["first_k_dense_replace"], total)
    kinds = (LayerKind(mlp="dense"),) * dense + (LayerKind(mlp="sparse"),) * (total - dense)
    return decoder(config, kinds, layer)


def _deepseek_v3(config: Config) -> Parts:
    shape = (config["num_experts"],)
    return _parts(config, Buffer(name="mlp.gate.e_score_correction_bias", shape=shape, dtype="float32"))


FAMILIES = (
    Family(
        model_type="deepseek_v2",
        entries=(
            *_COMMON,
            DIVISIBLE,
            *kv_heads(),
            positions(2048),
            flag("mlp_bias", False),
            *experts(REQUIRED, spelled="n_routed_experts", aliases=("num_experts",)),
            *_shared(2),
            *_groups(None, None, nullable=True),
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
            *_COMMON,
            *kv_heads(128),
            positions(4096),
            *experts(8, spelled="n_routed_experts", aliases=("num_local_experts",)),
            *_shared(1),
            *_groups(8, 4, nullable=False),
            Check(name="n_group", problem=_lonely),
            flag("norm_topk_prob", True, nullable=True),
            flag("rope_interleave", True, nullable=True),
            count("first_k_dense_replace", 3),
        ),
        parts=_deepseek_v3,
        forward=forward.DEEPSEEK_V3,
    ),
)
