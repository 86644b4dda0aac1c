"""HunYuan V1 dense: Llama's layer, with norms of queries and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.module import norm
from calculator.families.blocks import PRE_NORMS, Owned, attention, decoder, gated_mlp, norms, uniform_layers
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    activation,
    dropouts,
    flag,
    kv_heads,
    layers,
    number,
    padding,
    positions,
    size,
    tie,
)
from calculator.families.hunyuan import forward
from calculator.families.rope import rope

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import LayerKind


def _hunyuan(config: Config) -> Parts:
    def layer(_kind: LayerKind) -> Owned:
        bias, head = config["attention_bias"], config["head_dim"]
        return (
            *attention(config, qkv_bias=bias, o_bias=bias),
            norm("self_attn.query_layernorm", head),
            norm("self_attn.key_layernorm", head),
            *gated_mlp(config),
            *norms(config, *PRE_NORMS),
        )

    return decoder(config, uniform_layers(config), layer)


FAMILIES = (
    Family(
        model_type="hunyuan_v1_dense",
        entries=(
            size("vocab_size"),
            size("hidden_size"),
            size("intermediate_size"),
            layers(),
            size("num_attention_heads"),
            *kv_heads(),
            size("head_dim"),
            flag("use_cache", True),
            positions(2048),
            *rope(),
            activation(),
            number("rms_norm_eps", 1e-5),
            *dropouts("attention_dropout"),
            flag("attention_bias", False),
            tie(default=False),
            *padding(0),
        ),
        parts=_hunyuan,
        forward=forward.HUNYUAN_V1_DENSE,
    ),
)
