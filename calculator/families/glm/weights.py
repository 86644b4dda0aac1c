"""GLM 4: partial rotary embeddings and a fused gate and up projection; glm4 norms each sublayer's output too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.module import linear
from calculator.families.blocks import PRE_NORMS, Owned, attention, decoder, norms, uniform_layers
from calculator.families.family import Family, Parts
from calculator.families.fields import activation, dropouts, flag, grouped_sizes, number, padding, positions, tie
from calculator.families.glm import forward
from calculator.families.rope import rope

if TYPE_CHECKING:
    from calculator.architecture.config import Config, Entry

_COMMON: tuple[Entry, ...] = (
    positions(131_072),
    *rope(share=0.5, always=True),
    activation(),
    number("rms_norm_eps", 0.00000015625),
    flag("attention_bias", True),
    tie(default=False),
    *padding(151_329),
)


def _layer(config: Config, *normed: str) -> Owned:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    return (
        *attention(config, qkv_bias=config["attention_bias"]),
        linear("mlp.gate_up_proj", hidden, 2 * inner),
        linear("mlp.down_proj", inner, hidden),
        *norms(config, *normed),
    )


def _glm(config: Config) -> Parts:
    return decoder(config, uniform_layers(config), lambda _kind: _layer(config, *PRE_NORMS))


def _glm4(config: Config) -> Parts:
    normed = (*PRE_NORMS, "post_self_attn_layernorm", "post_mlp_layernorm")
    return decoder(config, uniform_layers(config), lambda _kind: _layer(config, *normed))


FAMILIES = (
    Family(
        model_type="glm",
        entries=(
            *grouped_sizes(kv=2, kv_nullable=False, head=128),
            *dropouts("attention_dropout", nullable=True),
            *_COMMON,
        ),
        parts=_glm,
        forward=forward.GLM,
    ),
    Family(
        model_type="glm4",
        entries=(*grouped_sizes(kv=2, kv_nullable=False, head=128), *dropouts("attention_dropout"), *_COMMON),
        parts=_glm4,
        forward=forward.GLM4,
    ),
)
