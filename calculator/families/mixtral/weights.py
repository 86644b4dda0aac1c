"""Mixtral: Mistral's block with a mixture of experts for its MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.layer_kind import LayerKind
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
from calculator.families.fields import (
    activation,
    dropouts,
    experts,
    given_head_dim,
    grouped_sizes,
    number,
    padding,
    positions,
    tie,
)
from calculator.families.mixtral import forward
from calculator.families.rope import rope
from calculator.families.windows import attention_type, window

if TYPE_CHECKING:
    from calculator.architecture.config import Config


def _mixtral(config: Config) -> Parts:
    def layer(_kind: LayerKind) -> Owned:
        return (
            *attention(config),
            router(config),
            fused_experts(config, "intermediate_size"),
            *norms(config, *PRE_NORMS),
        )

    return decoder(config, uniform_layers(config, LayerKind(attention=attention_type(config), mlp="sparse")), layer)


FAMILIES = (
    Family(
        model_type="mixtral",
        entries=(
            *grouped_sizes(kv=8, kv_nullable=False),
            positions(4096 * 32),
            *rope(theta=1e6),
            *given_head_dim(),
            window(None),
            activation(),
            number("rms_norm_eps", 1e-5),
            *dropouts("attention_dropout"),
            *experts(2, spelled="num_local_experts", aliases=("num_experts",)),
            number("router_jitter_noise", 0.0),
            tie(default=False),
            *padding(),
        ),
        parts=_mixtral,
        forward=forward.MIXTRAL,
        adds_router_loss=True,
    ),
)
