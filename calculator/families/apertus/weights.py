"""Apertus: normalized queries and keys, and a plain MLP with a learned activation (xIELU)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.module import Buffer, bare, norm
from calculator.families.apertus import forward
from calculator.families.blocks import Owned, attention, decoder, norms, plain_mlp, uniform_layers
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    ACTIVATIONS,
    activation,
    dropouts,
    flag,
    grouped_sizes,
    number,
    padding,
    positions,
    tie,
)
from calculator.families.rope import rope

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import LayerKind

#: Source: transformers/models/apertus/configuration_apertus.py, ApertusConfig.__post_init__.
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 12e6,
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}

#: The learned activation. Source: transformers/activations.py, XIELUActivation.
_XIELU: Owned = (
    bare("mlp.act_fn", "other", alpha_p=(1,), alpha_n=(1,)),
    Buffer(name="mlp.act_fn.beta", shape=(), dtype="model"),
    Buffer(name="mlp.act_fn.eps", shape=(), dtype="model"),
)


def _apertus(config: Config) -> Parts:
    def layer(_kind: LayerKind) -> Owned:
        bias, head = config["attention_bias"], config["head_dim"]
        return (
            *attention(config, qkv_bias=bias, o_bias=bias),
            norm("self_attn.q_norm", head),
            norm("self_attn.k_norm", head),
            *plain_mlp(config, "mlp.up_proj", "mlp.down_proj", bias=False),
            *(_XIELU if config["hidden_act"] == "xielu" else ()),
            *norms(config, "attention_layernorm", "feedforward_layernorm"),
        )

    return decoder(config, uniform_layers(config), layer)


FAMILIES = (
    Family(
        model_type="apertus",
        entries=(
            *grouped_sizes(head_nullable=False),
            positions(65_536),
            *rope(theta=12e6, otherwise=_LLAMA3),
            replace(activation("xielu"), choices=(*ACTIVATIONS, "xielu")),
            number("rms_norm_eps", 1e-5),
            *dropouts("attention_dropout"),
            flag("attention_bias", False),
            tie(default=False),
            *padding(3),
        ),
        parts=_apertus,
        forward=forward.APERTUS,
    ),
)
