"""Llama 4's text model: chunked attention, layers without rotary embeddings, and experts in some or all layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Check, Computed, Field
from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.module import bare, linear
from calculator.common.errors import shown
from calculator.families.blocks import PRE_NORMS, Owned, attention, decoder, gated_mlp, norms
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    MOST_TOKENS,
    activation,
    dropouts,
    experts,
    flag,
    grouped_sizes,
    number,
    padding,
    positions,
    size,
    tie,
)
from calculator.families.llama4 import forward
from calculator.families.nested import from_text, nested, with_defaults
from calculator.families.rope import rope

if TYPE_CHECKING:
    from calculator.architecture.config import Config, Entry
    from calculator.architecture.layer_kind import AttentionType

#: The names of the attention types in a file.
_TYPES: dict[str, AttentionType] = {"full_attention": "full_attention", "chunked_attention": "sliding_attention"}


def _rotated(config: Config) -> tuple[int, ...]:
    interval = int(config["no_rope_layer_interval"])
    return tuple(int((index + 1) % interval != 0) for index in range(config["num_hidden_layers"]))


def _with_experts(config: Config) -> tuple[int, ...]:
    step = int(config["interleave_moe_layer_step"])
    return tuple(range(step - 1, int(config["num_hidden_layers"]), step))


def _usual_types(config: Config) -> tuple[str, ...]:
    chunks = config["attention_chunk_size"] is not None
    return tuple(
        "chunked_attention" if rotated and chunks else "full_attention" for rotated in config["no_rope_layers"]
    )


def _wrong_types(config: Config) -> str | None:
    types, expected = config["layer_types"], config["num_hidden_layers"]
    if len(types) != expected:
        return f"lists {len(types):,} layers, but num_hidden_layers is {shown(expected)}"
    unknown = next((type_ for type_ in types if type_ not in _TYPES), None)
    if unknown is not None:
        return f"{shown(unknown)} is none of {', '.join(_TYPES)}"
    if "chunked_attention" in types and config["attention_chunk_size"] is None:
        return "attention_chunk_size is null, but layer_types has chunked_attention; set it"
    return None


def _too_few(config: Config) -> str | None:
    listed, expected = len(config["no_rope_layers"]), config["num_hidden_layers"]
    return f"lists {listed:,} layers, but num_hidden_layers is {shown(expected)}" if listed < expected else None


def _mixture(config: Config) -> Owned:
    among, hidden, inner = config["num_experts"], config["hidden_size"], config["intermediate_size"]
    name, down_proj = "feed_forward.experts", (among, inner, hidden)
    return (
        bare(name, "experts", gate_up_proj=(among, hidden, 2 * inner), down_proj=down_proj),
        linear("feed_forward.router", hidden, among, quantizable=False),
        *gated_mlp(config, name="feed_forward.shared_expert"),
    )


def _llama4_text(config: Config) -> Parts:
    def layer(kind: LayerKind) -> Owned:
        bias = config["attention_bias"]
        dense = gated_mlp(config, name="feed_forward", width="intermediate_size_mlp")
        return (
            *attention(config, qkv_bias=bias, o_bias=bias),
            *(_mixture(config) if kind.mlp == "sparse" else dense),
            *norms(config, *PRE_NORMS),
        )

    sparse = frozenset(config["moe_layers"])
    kinds = [
        LayerKind(attention=_TYPES[kind], mlp="sparse" if index in sparse else "dense", rotated=bool(rotated))
        for index, (kind, rotated) in enumerate(zip(config["layer_types"], config["no_rope_layers"], strict=False))
    ]
    return decoder(config, kinds, layer)


#: The fields of a text model.
LLAMA4_TEXT: tuple[Entry, ...] = (
    *grouped_sizes(kv=8, head=128),
    size("intermediate_size_mlp", 16_384),
    positions(131_072),
    *rope(theta=500_000.0),
    activation(),
    number("rms_norm_eps", 1e-5),
    *dropouts("attention_dropout"),
    flag("attention_bias", False),
    *experts(1, spelled="num_local_experts"),
    size("interleave_moe_layer_step", 1),
    Field(name="moe_layers", type="indices", default=None, nullable=True, null=_with_experts),
    flag("use_qk_norm", True),
    size("no_rope_layer_interval", 4),
    Field(name="no_rope_layers", type="indices", default=None, nullable=True, null=_rotated),
    Check(name="no_rope_layers", problem=_too_few),
    size("attention_chunk_size", 8192, nullable=True, maximum=MOST_TOKENS),
    Field(name="layer_types", type="names", default=None, nullable=True, null=_usual_types),
    Check(name="layer_types", problem=_wrong_types),
    Computed(name="sliding_window", value=lambda config: config["attention_chunk_size"]),
    flag("attn_temperature_tuning", True),
    tie(default=False),
    *padding(),
)

#: The defaults of the class. A file leaves out fields of `text_config` that equal the defaults.
#: Source: transformers/models/llama4/configuration_llama4.py, Llama4TextConfig.
_SIZES = {
    "vocab_size": 202_048,
    "hidden_size": 5120,
    "intermediate_size": 8192,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_experts": 16,
}

#: The note on what is built from a file with a vision tower.
_TEXT_ALONE = (
    "The text model alone, which AutoModelForCausalLM builds of this config. Llama4ForConditionalGeneration, which has"
    " the vision tower too, fails in transformers 5.24: its forward pass reads image_outputs of an output without it."
)


_TEXT = with_defaults(LLAMA4_TEXT, _SIZES)

FAMILIES = (
    Family(model_type="llama4_text", folder="llama4", entries=LLAMA4_TEXT, parts=_llama4_text, forward=forward.LLAMA4),
    Family(
        model_type="llama4",
        # tie_word_embeddings belongs to the text model, which is built alone
        entries=(*nested("text_config", _TEXT), *from_text(LLAMA4_TEXT)),
        text=_TEXT,
        parts=lambda config: _llama4_text(config["text_config"]),
        forward=forward.LLAMA4,
        notes=(_TEXT_ALONE,),
    ),
)
