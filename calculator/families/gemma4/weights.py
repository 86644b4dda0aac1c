"""Gemma 4's text model: full attention with larger heads, shared keys and values, per-layer inputs, and experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.architecture.config import Check, Computed, Field
from calculator.architecture.dimension import Dim
from calculator.architecture.layer_kind import ATTENTION_TYPES, LayerKind
from calculator.architecture.model import TEXT_ALONE, stack
from calculator.architecture.module import Buffer, bare, embedding, linear, norm
from calculator.common.errors import shown
from calculator.families.blocks import Owned, norms
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    activation,
    count,
    dropouts,
    flag,
    grouped_sizes,
    number,
    padding,
    positions,
    size,
    tie,
)
from calculator.families.gemma.weights import SANDWICH
from calculator.families.gemma4 import forward, unified, with_images
from calculator.families.gemma4.audio import AUDIO, audio_tower
from calculator.families.gemma4.sharing import missing_inputs, sharing_modes, wrong_number
from calculator.families.gemma4.sizes import GLOBAL_GROUPS, ROTATIONS, sizes_by_type
from calculator.families.gemma4.unified_weights import UNIFIED_AUDIO, UNIFIED_VISION, embedders
from calculator.families.gemma4.vision import VISION, vision_tower
from calculator.families.nested import from_text, nested, optional, with_defaults
from calculator.families.rope import frequencies
from calculator.families.windows import layer_types, sliding_except_every, window

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.architecture.config import Config, Entry

#: The norms of a layer with experts in parallel with its MLP.
_OF_EXPERTS = ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2")


def _full_at_the_end(config: Config) -> tuple[str, ...]:
    """Return the types of the layers. The last one always has full attention."""
    return (*config["layer_types"][:-1], "full_attention")


def _without_experts(config: Config) -> str | None:
    sizes = {"num_experts": "num_experts", "num_experts_per_tok": "top_k_experts", "moe_intermediate_size": ""}
    missing = [spelled or name for name, spelled in sizes.items() if config[name] is None]
    if config["enable_moe_block"] and missing:
        return f"needs {', '.join(missing)}"
    if config["enable_moe_block"] and config["num_experts_per_tok"] > config["num_experts"]:
        return f"needs num_experts of at least top_k_experts, {shown(config['num_experts_per_tok'])}"
    return None


def _both_ways(config: Config) -> str | None:
    every_way = config["use_bidirectional_attention"] == "all"
    return "attention in both directions is not modeled for this family: use vision, or null" if every_way else None


def _attention(config: Config, kind: LayerKind) -> Owned:
    full, bias, hidden = kind.attention == "full_attention", config["attention_bias"], config["hidden_size"]
    head = config["global_head_dim"] if full else config["head_dim"]
    queries = config["num_attention_heads"] * head
    keys = (config["global_key_value_heads"] if full else config["num_key_value_heads"]) * head
    projections: Owned = ()
    if kind.shares != "reuse":
        projections = (norm("self_attn.k_norm", head), linear("self_attn.k_proj", hidden, keys, bias=bias))
    if projections and not (full and config["attention_k_eq_v"]):
        projections = (*projections, linear("self_attn.v_proj", hidden, keys, bias=bias))
    return (
        linear("self_attn.q_proj", hidden, queries, bias=bias),
        norm("self_attn.q_norm", head),
        *projections,
        linear("self_attn.o_proj", queries, hidden, bias=bias),
    )


def _mlp(config: Config, kind: LayerKind) -> Owned:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    if config["use_double_wide_mlp"] and kind.shares == "reuse":
        inner = inner * 2
    return (
        linear("mlp.gate_proj", hidden, inner),
        linear("mlp.up_proj", hidden, inner),
        linear("mlp.down_proj", inner, hidden),
    )


def _own_input(config: Config) -> Owned:
    hidden, width = config["hidden_size"], config["hidden_size_per_layer_input"]
    if not width:
        return ()
    return (
        linear("per_layer_input_gate", hidden, width),
        linear("per_layer_projection", width, hidden),
        norm("post_per_layer_input_norm", hidden),
    )


def _experts(config: Config) -> Owned:
    if not config["enable_moe_block"]:
        return ()
    hidden, among, inner = config["hidden_size"], config["num_experts"], config["moe_intermediate_size"]
    return (
        bare("router", "other", scale=(hidden,), per_expert_scale=(among,)),
        linear("router.proj", hidden, among),
        bare("experts", "experts", gate_up_proj=(among, 2 * inner, hidden), down_proj=(among, hidden, inner)),
        *norms(config, *_OF_EXPERTS),
    )


def _layer(config: Config, kind: LayerKind) -> Owned:
    return (
        *_attention(config, kind),
        *_mlp(config, kind),
        *norms(config, *SANDWICH),
        Buffer(name="layer_scalar", shape=(Dim(1, "1"),), dtype="model", persistent=True),
        *_own_input(config),
        *_experts(config),
    )


def _inputs_of_layers(config: Config, path: str) -> Parts:
    width, hidden = config["hidden_size_per_layer_input"], config["hidden_size"]
    if not width:
        return ()
    width_of_all = config["num_hidden_layers"] * width
    return (
        embedding(f"{path}.embed_tokens_per_layer", config["vocab_size_per_layer_input"], width_of_all),
        Buffer(name=f"{path}.embed_tokens_per_layer.embed_scale", shape=(), dtype="model"),
        linear(f"{path}.per_layer_model_projection", hidden, width_of_all),
        norm(f"{path}.per_layer_projection_norm", width),
    )


def text_model(config: Config, path: str) -> Parts:
    """Return Gemma4TextModel: all modules except the output head."""
    vocabulary, hidden = config["vocab_size"], config["hidden_size"]
    modes = zip(config["layer_types"], config["kv_sharing_modes"], strict=True)
    kinds = [LayerKind(attention=attention, shares=mode) for attention, mode in modes]
    rotary = (
        frequency
        for kind in ATTENTION_TYPES
        if kind in config["layer_types"]
        for frequency in frequencies(f"{path}.rotary_emb", config["rotary_dim_by_type"][kind], f"{kind}_")
    )
    return (
        embedding(f"{path}.embed_tokens", vocabulary, hidden),
        Buffer(name=f"{path}.embed_tokens.embed_scale", shape=(), dtype="model"),
        stack(f"{path}.layers", kinds, lambda kind: _layer(config, kind)),
        norm(f"{path}.norm", hidden),
        *rotary,
        *_inputs_of_layers(config, path),
    )


def _gemma4_text(config: Config) -> Parts:
    return (*text_model(config, "model"), linear("lm_head", config["hidden_size"], config["vocab_size"]))


def _with_sizes_by_type(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Read the sizes of full attention in the text model's file."""
    text = raw.get("text_config")
    return {**raw, "text_config": sizes_by_type(text)} if isinstance(text, dict) else raw


def _gemma4(config: Config) -> Parts:
    text, vision, audio = config["text_config"], config["vision_config"], config["audio_config"]
    hidden = text["hidden_size"]
    projected = [("vision", vision["hidden_size"])] if vision else []
    projected += [("audio", audio["output_proj_dims"])] if audio else []
    return (
        *(vision_tower(vision, "model.vision_tower") if vision else ()),
        *text_model(text, "model.language_model"),
        *(audio_tower(audio, "model.audio_tower") if audio else ()),
        *(linear(f"model.embed_{name}.embedding_projection", width, hidden) for name, width in projected),
        linear("lm_head", hidden, text["vocab_size"]),
    )


def _gemma4_unified(config: Config) -> Parts:
    text, hidden = config["text_config"], config["text_config"]["hidden_size"]
    return (
        *text_model(text, "model.language_model"),
        *embedders(config["vision_config"], config["audio_config"], hidden),
        linear("lm_head", hidden, text["vocab_size"]),
    )


def _dense(*, longest: int, windows: int, both_ways: str | None) -> tuple[Entry, ...]:
    """Return the fields of attention and of the MLP, with the defaults that differ between the classes."""
    choices = ("all", "vision")
    return (
        *grouped_sizes(kv=4, kv_nullable=False, head=256),
        size("global_head_dim", 512),
        size("num_global_key_value_heads", None, nullable=True),
        flag("attention_k_eq_v", False),
        *GLOBAL_GROUPS,
        positions(longest),
        Field(name="use_bidirectional_attention", type="text", default=both_ways, nullable=True, choices=choices),
        Check(name="use_bidirectional_attention", problem=_both_ways),
        window(windows),
        *layer_types(sliding_except_every(6)),
        Computed(name="layer_types", value=_full_at_the_end),
        *ROTATIONS,
        count("num_kv_shared_layers", 0),
        Check(name="num_kv_shared_layers", problem=wrong_number),
        Computed(name="kv_sharing_modes", value=sharing_modes),
        flag("use_double_wide_mlp", False),
        activation("gelu_pytorch_tanh", spelled="hidden_activation"),
        number("rms_norm_eps", 1e-6),
        *dropouts("attention_dropout", nullable=True),
        flag("attention_bias", False),
        number("final_logit_softcapping", None, nullable=True),
        tie(default=True),
        *padding(0),
    )


#: The fields of a Gemma 4 text model.
GEMMA4_TEXT: tuple[Entry, ...] = (
    *_dense(longest=131_072, windows=512, both_ways=None),
    size("vocab_size_per_layer_input", 262_144),
    count("hidden_size_per_layer_input", 256),
    Check(name="hidden_size_per_layer_input", problem=missing_inputs),
    flag("enable_moe_block", False),
    size("num_experts", None, nullable=True),
    size("num_experts_per_tok", None, spelled="top_k_experts", nullable=True),
    size("moe_intermediate_size", None, nullable=True),
    Check(name="enable_moe_block", problem=_without_experts),
)

#: The fields of the text model of Gemma 4 12B, which has neither per-layer inputs nor experts.
#: Source: transformers/models/gemma4_unified/modeling_gemma4_unified.py, Gemma4UnifiedTextModel.
_UNIFIED_TEXT: tuple[Entry, ...] = (
    *_dense(longest=262_144, windows=1024, both_ways="vision"),
    Computed(name="hidden_size_per_layer_input", value=lambda _config: 0),
    Computed(name="enable_moe_block", value=lambda _config: False),
    Computed(name="num_experts", value=lambda _config: None),
)

#: The defaults of the class. A file leaves out fields of `text_config` that equal the defaults.
#: Source: transformers/models/gemma4/configuration_gemma4.py, Gemma4TextConfig.
_SIZES = {
    "vocab_size": 262_144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
}

_TEXT = with_defaults(GEMMA4_TEXT, _SIZES)

_WHOLE_UNIFIED_TEXT = with_defaults(_UNIFIED_TEXT, _SIZES)

_AUDIO = ("model.audio_tower.", "model.embed_audio")

FAMILIES = (
    Family(
        model_type="gemma4",
        auto_class="image-text-to-text",
        entries=(
            *nested("text_config", _TEXT),
            *optional("vision_config", VISION),
            *optional("audio_config", AUDIO),
            *from_text(GEMMA4_TEXT),
            count("image_token_id", 258_880),
            tie(default=True),
        ),
        text=_TEXT,
        prepare=_with_sizes_by_type,
        sizes_per_layer=True,
        parts=_gemma4,
        forward=with_images.GEMMA4,
        tied={"lm_head.weight": "model.language_model.embed_tokens.weight"},
        notes=(TEXT_ALONE,),
        idle=("model.vision_tower.", "model.embed_vision", *_AUDIO),
        idle_with_images=lambda _config: _AUDIO,
    ),
    Family(
        model_type="gemma4_text",
        folder="gemma4",
        entries=GEMMA4_TEXT,
        prepare=sizes_by_type,
        sizes_per_layer=True,
        parts=_gemma4_text,
        forward=forward.GEMMA4_TEXT,
    ),
    Family(
        model_type="gemma4_unified",
        folder="gemma4_unified",
        auto_class="image-text-to-text",
        entries=(
            *nested("text_config", _WHOLE_UNIFIED_TEXT),
            *optional("vision_config", UNIFIED_VISION),
            *optional("audio_config", UNIFIED_AUDIO),
            *from_text(_UNIFIED_TEXT),
            count("image_token_id", 258_880),
            tie(default=True),
        ),
        text=_WHOLE_UNIFIED_TEXT,
        prepare=_with_sizes_by_type,
        sizes_per_layer=True,
        parts=_gemma4_unified,
        forward=unified.GEMMA4_UNIFIED,
        tied={"lm_head.weight": "model.language_model.embed_tokens.weight"},
        notes=(TEXT_ALONE,),
        idle=("model.embed_vision", "model.embed_audio"),
        idle_with_images=lambda _config: ("model.embed_audio",),
    ),
    Family(
        model_type="gemma4_unified_text",
        folder="gemma4_unified",
        entries=_UNIFIED_TEXT,
        prepare=sizes_by_type,
        sizes_per_layer=True,
        parts=_gemma4_text,
        forward=forward.GEMMA4_TEXT,
    ),
)
