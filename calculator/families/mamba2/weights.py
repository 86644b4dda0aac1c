"""Mamba 2: layers that consist of a norm and a mixer, with residuals in float32."""

from __future__ import annotations

from calculator.architecture.config import Check, Computed, Config
from calculator.architecture.dimension import Dim
from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.model import stack
from calculator.architecture.module import embedding, linear, norm
from calculator.common.errors import shown
from calculator.families.family import Family, Parts
from calculator.families.fields import activation, flag, layers, number, padding, size, tie
from calculator.families.mamba import WHOLE_GROUPS, WITHOUT_KERNELS, mixer
from calculator.families.mamba2 import forward


def _wrong_width(config: Config) -> str | None:
    hidden, expand = config["hidden_size"], config["mamba_expand"]
    heads, head = config["mamba_n_heads"], config["mamba_d_head"]
    if hidden * expand == heads * head:
        return None
    return f"{shown(heads)} heads of {shown(head)} are not {shown(expand)} times hidden_size, {shown(hidden)}"


def _mamba2(config: Config) -> Parts:
    vocabulary, hidden = config["vocab_size"], config["hidden_size"]
    kinds = (LayerKind(attention="linear_attention"),) * int(config["num_hidden_layers"])
    return (
        embedding("backbone.embeddings", vocabulary, hidden),
        stack("backbone.layers", kinds, lambda _kind: (norm("norm", hidden), *mixer(config, "mixer"))),
        norm("backbone.norm_f", hidden),
        linear("lm_head", hidden, vocabulary),
    )


FAMILIES = (
    Family(
        model_type="mamba2",
        entries=(
            size("vocab_size", 32_768),
            size("hidden_size", 4096),
            layers(default=64),
            size("mamba_n_heads", 128, spelled="num_heads"),
            size("mamba_d_head", 64, spelled="head_dim"),
            size("mamba_n_groups", 8, spelled="n_groups"),
            WHOLE_GROUPS,
            size("mamba_d_state", 128, spelled="state_size"),
            size("mamba_d_conv", 4, spelled="conv_kernel"),
            size("mamba_chunk_size", 256, spelled="chunk_size"),
            size("mamba_expand", 2, spelled="expand"),
            Check(name="mamba_n_heads", problem=_wrong_width),
            Computed(
                name="mamba_inner",
                value=lambda config: Dim(int(config["mamba_n_heads"]) * int(config["mamba_d_head"]), "mamba_inner"),
            ),
            flag("mamba_conv_bias", True, spelled="use_conv_bias"),
            flag("mamba_proj_bias", False, spelled="use_bias"),
            flag("residual_in_fp32", True),
            activation(),
            number("layer_norm_epsilon", 1e-5),
            # no layer has attention: costs and the refusal of a prefix use the heads of the mixer
            Computed(name="num_attention_heads", value=lambda config: config["mamba_n_heads"]),
            Computed(name="num_key_value_heads", value=lambda config: config["mamba_n_heads"]),
            Computed(name="head_dim", value=lambda config: config["mamba_d_head"]),
            # in training the model creates no cache, whatever its config sets
            Computed(name="use_cache", value=lambda _config: False),
            tie(default=False),
            *padding(1),
        ),
        parts=_mamba2,
        forward=forward.MAMBA2,
        tied={"lm_head.weight": "backbone.embeddings.weight"},
        notes=(WITHOUT_KERNELS,),
    ),
)
