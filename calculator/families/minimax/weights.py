"""MiniMax M2: norms over whole queries and keys, partial rotary embeddings, and experts in every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.module import Buffer, norm
from calculator.families.blocks import (
    PRE_NORMS,
    Owned,
    attention,
    decoder,
    fused_experts,
    norms,
    router,
    uniform_layers,
)
from calculator.families.family import Family, Parts
from calculator.families.fields import activation, dropouts, experts, grouped_sizes, number, padding, positions, tie
from calculator.families.minimax import forward
from calculator.families.rope import rope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.architecture.config import Config

#: The default head size of the class. Files only give the rotated width.
_HEAD = 128


def _share_of_width(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Set the share of each head that is rotated, for files that give its width (convert_rope_params_to_dict)."""
    rotary, head = raw.get("rotary_dim"), raw.get("head_dim", _HEAD)
    if not isinstance(rotary, int) or not isinstance(head, int) or head < 1:
        return raw
    return {"partial_rotary_factor": rotary / head, **raw}


def _minimax_m2(config: Config) -> Parts:
    head, among = config["head_dim"], config["num_experts"]

    def layer(_kind: LayerKind) -> Owned:
        return (
            *attention(config),
            norm("self_attn.q_norm", config["num_attention_heads"] * head),
            norm("self_attn.k_norm", config["num_key_value_heads"] * head),
            router(config),
            fused_experts(config, "intermediate_size"),
            Buffer(name="mlp.e_score_correction_bias", shape=(among,), dtype="model", persistent=True),
            *norms(config, *PRE_NORMS),
        )

    return decoder(config, uniform_layers(config, LayerKind(mlp="sparse")), layer)


FAMILIES = (
    Family(
        model_type="minimax_m2",
        entries=(
            *grouped_sizes(kv=8, kv_nullable=False, head=_HEAD),
            positions(196_608),
            *rope(theta=5e6, always=True),
            activation(),
            number("rms_norm_eps", 1e-6),
            *dropouts("attention_dropout"),
            *experts(8, spelled="num_local_experts", aliases=("num_experts",)),
            number("router_jitter_noise", 0.0),
            tie(default=False),
            *padding(),
        ),
        parts=_minimax_m2,
        forward=forward.MINIMAX_M2,
        prepare=_share_of_width,
        adds_router_loss=True,
    ),
)
