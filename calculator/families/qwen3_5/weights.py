"""Qwen 3.5's text model: gated DeltaNet in most layers, attention with a gate in every fourth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Check, Field, shown
from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.module import bare, conv1d_of_channels, linear, norm
from calculator.families.blocks import PRE_NORMS, Owned, decoder, gated_mlp, norms
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    activation,
    divisible,
    dropouts,
    flag,
    grouped_sizes,
    listed_layer_types,
    number,
    padding,
    positions,
    size,
    tie,
)
from calculator.families.qwen3_5 import forward
from calculator.families.rope import rope

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import MixerType

_TYPES: tuple[MixerType, ...] = ("linear_attention", "full_attention")

#: What a GPU may allocate besides, and what an installed package changes.
WITHOUT_KERNELS = (
    "Gated DeltaNet runs as transformers' own PyTorch code. With the packages flash-linear-attention (fla) and"
    " causal-conv1d it needs less; cuBLAS's and cuDNN's workspaces for it are not counted."
)


def _usual_types(config: Config) -> tuple[str, ...]:
    count, interval = config["num_hidden_layers"], config["full_attention_interval"]
    return tuple(_TYPES[(index + 1) % interval == 0] for index in range(count))


def _wrong_sections(config: Config) -> str | None:
    sections = config["rope_parameters"].get("mrope_section", (11, 11, 10))
    valid = isinstance(sections, list | tuple) and len(sections) == len(("time", "height", "width"))
    if valid and all(isinstance(each, int) and 0 <= each <= config["head_dim"] for each in sections):
        return None
    return f"mrope_section {shown(sections)} must be three numbers of pairs"


def _delta_net(config: Config) -> Owned:
    hidden, heads = config["hidden_size"], config["linear_num_value_heads"]
    keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    values = heads * config["linear_value_head_dim"]
    mixed = keys * 2 + values
    return (
        bare("linear_attn", "other", dt_bias=(heads,), A_log=(heads,)),
        conv1d_of_channels("linear_attn.conv1d", mixed, config["linear_conv_kernel_dim"], bias=False),
        norm("linear_attn.norm", config["linear_value_head_dim"]),
        linear("linear_attn.out_proj", values, hidden),
        linear("linear_attn.in_proj_qkv", hidden, mixed),
        linear("linear_attn.in_proj_z", hidden, values),
        linear("linear_attn.in_proj_b", hidden, heads),
        linear("linear_attn.in_proj_a", hidden, heads),
    )


def _attention(config: Config) -> Owned:
    hidden, head, bias = config["hidden_size"], config["head_dim"], config["attention_bias"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    return (
        linear("self_attn.q_proj", hidden, queries * 2, bias=bias),
        linear("self_attn.k_proj", hidden, keys, bias=bias),
        linear("self_attn.v_proj", hidden, keys, bias=bias),
        linear("self_attn.o_proj", queries, hidden, bias=bias),
        norm("self_attn.q_norm", head),
        norm("self_attn.k_norm", head),
    )


def _qwen3_5_text(config: Config) -> Parts:
    def layer(kind: LayerKind) -> Owned:
        mixer = _delta_net(config) if kind.attention == "linear_attention" else _attention(config)
        return (*mixer, *gated_mlp(config), *norms(config, *PRE_NORMS))

    kinds = {name: LayerKind(attention=name) for name in _TYPES}
    return decoder(config, [kinds[name] for name in config["layer_types"]], layer)


FAMILIES = (
    Family(
        model_type="qwen3_5_text",
        folder="qwen3_5",
        entries=(
            *grouped_sizes(kv=4, kv_nullable=False, head=256),
            positions(32_768),
            *rope(share=0.25, always=True),
            Check(name="rope_parameters", problem=_wrong_sections),
            size("full_attention_interval", 4),
            Field(name="layer_types", type="names", default=None, nullable=True, null=_usual_types),
            listed_layer_types(_TYPES),
            size("linear_conv_kernel_dim", 4),
            size("linear_key_head_dim", 128),
            size("linear_value_head_dim", 128),
            size("linear_num_key_heads", 16),
            size("linear_num_value_heads", 32),
            divisible("linear_num_value_heads", "linear_num_key_heads"),
            activation(),
            number("rms_norm_eps", 1e-6),
            *dropouts("attention_dropout"),
            flag("attention_bias", False),
            tie(default=False),
            *padding(),
        ),
        parts=_qwen3_5_text,
        forward=forward.QWEN3_5,
        notes=(WITHOUT_KERNELS,),
    ),
)
