"""The fields and modules of multi-head latent attention and of DeepSeek's experts, which other families share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Check
from calculator.architecture.module import Buffer, linear, norm
from calculator.common.errors import shown
from calculator.families.blocks import Owned, fused_experts, gated_mlp, router
from calculator.families.fields import activation, derived, dropouts, experts, flag, layers, number, padding, size
from calculator.families.rope import rope

if TYPE_CHECKING:
    from calculator.architecture.config import Config, Entry
    from calculator.architecture.module import Module


def _ungrouped(config: Config) -> str | None:
    groups, among = config["n_group"], config["num_experts"]
    return f"{shown(among)} experts do not divide into {shown(groups)} groups" if groups and among % groups else None


def _too_many_groups(config: Config) -> str | None:
    chosen, groups = config["topk_group"], config["n_group"]
    has_groups = chosen is not None and groups is not None
    return (
        f"{shown(chosen)} groups are more than the {shown(groups)} of n_group"
        if has_groups and chosen > groups
        else None
    )


def _group_problem(config: Config) -> str | None:
    groups = config["n_group"]
    return (
        f"{shown(groups)} groups leave fewer than two experts in each" if config["num_experts"] < 2 * groups else None
    )


#: Each group has two experts, because the two best scores of a group are summed.
LARGE_GROUPS = Check(name="n_group", problem=_group_problem)


def latent_fields(
    *,
    query_rank: int = 1536,
    nope: int = 128,
    value: int = 128,
    eps: float = 1e-6,
    partial: bool = False,
    rotated_aliases: tuple[str, ...] = (),
) -> tuple[Entry, ...]:
    """Return the fields of latent attention and of the decoders that have it, with the defaults of the class.

    `partial`: whether the frequencies depend on partial_rotary_factor in every rotary type. `rotated_aliases`: other
    names of qk_rope_head_dim in files.
    """
    return (
        size("vocab_size"),
        size("hidden_size"),
        layers(),
        size("num_attention_heads"),
        size("kv_lora_rank", 512),
        size("q_lora_rank", query_rank, nullable=True),
        size("qk_nope_head_dim", nope),
        size("qk_rope_head_dim", 64, aliases=rotated_aliases),
        size("v_head_dim", value),
        derived("qk_head_dim", lambda config: config["qk_nope_head_dim"] + config["qk_rope_head_dim"]),
        derived("head_dim", lambda config: config["qk_rope_head_dim"]),
        *rope(always=partial),
        activation(),
        number("rms_norm_eps", eps),
        flag("use_cache", True),
        flag("attention_bias", False),
        *dropouts("attention_dropout", nullable=True),
        *padding(),
    )


def expert_groups(groups: int | None, chosen: int | None, *, nullable: bool) -> tuple[Entry, ...]:
    """Return the fields of expert groups: the experts of a token are in the best `topk_group` of `n_group` groups."""
    return (
        size("n_group", groups, nullable=nullable),
        size("topk_group", chosen, nullable=nullable),
        Check(name="n_group", problem=_ungrouped),
        Check(name="topk_group", problem=_too_many_groups),
    )


def shared_experts(default: int) -> tuple[Entry, ...]:
    """Return the field of the experts that process every token. They are one MLP with the sum of their widths."""
    together = derived("shared_intermediate_size", lambda c: c["n_shared_experts"] * c["moe_intermediate_size"])
    return (size("n_shared_experts", default), together)


def latent_attention(config: Config) -> tuple[Module, ...]:
    """Return the low-rank projections of latent attention.

    If `q_lora_rank` is null, queries have a direct projection.
    """
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


def routed_experts(per_token: int, *, groups: tuple[int, int]) -> tuple[Entry, ...]:
    """Return the fields of experts with DeepSeek V3's router. `groups`: the defaults of n_group and topk_group."""
    return (
        *experts(per_token, spelled="n_routed_experts", aliases=("num_local_experts",), router_loss=None),
        *shared_experts(1),
        *expert_groups(*groups, nullable=False),
        LARGE_GROUPS,
        flag("norm_topk_prob", True, nullable=True),
    )


def mixture(config: Config, *correction: Buffer) -> Owned:
    """Return the modules of routed and shared experts.

    `correction`: the buffer that corrects router scores, or None.
    """
    bias = config.get("mlp_bias", False)
    return (
        fused_experts(config, "moe_intermediate_size"),
        router(config, dtype="float32"),
        *correction,
        *gated_mlp(config, bias=bias, name="mlp.shared_experts", width="shared_intermediate_size"),
    )


def corrected_mixture(config: Config) -> Owned:
    """Return the modules of routed and shared experts, with DeepSeek V3's correction of router scores."""
    experts = config["num_experts"]
    correction = Buffer(name="mlp.gate.e_score_correction_bias", shape=(experts,), dtype="float32", persistent=True)
    return mixture(config, correction)
