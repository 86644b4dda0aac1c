"""GPT-OSS: attention sinks, alternating windows, experts with biases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.module import bare
from calculator.families.blocks import PRE_NORMS, Owned, attention, decoder, kinds_by_attention, norms
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
    tie,
)
from calculator.families.gpt_oss import forward
from calculator.families.rope import rope
from calculator.families.windows import layer_types, sliding_except_every, window

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import LayerKind

#: Source: transformers/models/gpt_oss/configuration_gpt_oss.py, GptOssConfig.__post_init__.
_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def _mixture(config: Config) -> Owned:
    among, hidden, inner = config["num_experts"], config["hidden_size"], config["intermediate_size"]
    return (
        bare("mlp.router", "other", weight=(among, hidden), bias=(among,)),
        bare(
            "mlp.experts",
            "experts",
            gate_up_proj=(among, hidden, 2 * inner),
            gate_up_proj_bias=(among, 2 * inner),
            down_proj=(among, inner, hidden),
            down_proj_bias=(among, hidden),
        ),
    )


#: Source: config.json of openai/gpt-oss-20b; transformers 5.24, quantizers/quantizer_mxfp4.py (is_trainable).
PUBLISHED_IN_MXFP4 = (
    "OpenAI publishes GPT-OSS with experts in MXFP4, over which transformers does not train. The figures are for"
    " weights in the given dtype, as Mxfp4Config(dequantize=True) loads them."
)


def _gpt_oss(config: Config) -> Parts:
    def layer(_kind: LayerKind) -> Owned:
        bias = config["attention_bias"]
        return (
            bare("self_attn", "other", sinks=(config["num_attention_heads"],)),
            *attention(config, qkv_bias=bias, o_bias=bias),
            *_mixture(config),
            *norms(config, *PRE_NORMS),
        )

    return decoder(config, kinds_by_attention(config, mlp="sparse"), layer)


FAMILIES = (
    Family(
        model_type="gpt_oss",
        entries=(
            *grouped_sizes(kv=8, kv_nullable=False, head=64),
            positions(131_072),
            *rope(theta=150_000.0, otherwise=_YARN),
            window(128),
            *layer_types(sliding_except_every(2)),
            activation(),
            number("rms_norm_eps", 1e-5),
            *dropouts("attention_dropout"),
            *experts(4, spelled="num_local_experts"),
            number("swiglu_alpha", 1.702),
            number("swiglu_limit", 7.0),
            flag("attention_bias", True),
            tie(default=False),
            *padding(),
        ),
        parts=_gpt_oss,
        forward=forward.GPT_OSS,
        adds_router_loss=True,
        notes=(PUBLISHED_IN_MXFP4,),
    ),
)
