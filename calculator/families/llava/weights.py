"""LLaVA: CLIP, a projector with two layers, and the text model of Llama or Mistral."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.config import Check, Computed, Config, ContradictionError, Field, read
from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.model import TEXT_ALONE, stack
from calculator.architecture.module import bare, embedding, linear, norm
from calculator.common.errors import shown
from calculator.families.blocks import uniform_layers
from calculator.families.family import Family, Parts
from calculator.families.fields import MOST_LAYERS, activation, count, flag, tie
from calculator.families.image_encoder import CLIP, clip, unused_layers
from calculator.families.llama.weights import LLAMA, MISTRAL, llama_layer, mistral_layer
from calculator.families.llava import forward, tiles
from calculator.families.llava.forward import PROJECTOR, TEXT_MODEL, TOWER
from calculator.families.nested import nested, with_defaults
from calculator.families.rope import frequencies
from calculator.families.windows import attention_type

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.architecture.config import Entry

#: The fields of each text model, with the defaults of its class, which a file leaves out.
#: Source: configuration_llama.py and configuration_mistral.py.
_TEXTS: Mapping[str, tuple[Entry, ...]] = {
    kind: with_defaults(
        entries,
        {
            "vocab_size": 32_000,
            "hidden_size": 4096,
            "intermediate_size": inner,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
    )
    for kind, entries, inner in (("llama", LLAMA, 11_008), ("mistral", MISTRAL, 14_336))
}

#: The vision tower of a file without `vision_config`.
#: Source: configuration_llava.py, sub_configs_defaults.
_DEFAULT_VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}


def _kind_of(config: Config, field: str, usual: str, kinds: Mapping[str, object] | tuple[str, ...]) -> str:
    kind = (config[field] or {}).get("model_type", usual)
    if not isinstance(kind, str) or kind not in kinds:
        raise ContradictionError(field, f"its model_type must be one of {', '.join(kinds)}, not {shown(kind)}")
    return kind


def _text_type(config: Config) -> str:
    return _kind_of(config, "text_config", "llama", _TEXTS)


def _text(config: Config) -> Config:
    return read(_TEXTS[config["text_model_type"]], config["text_config"] or {}, "model.config.text_config")


def _vision(config: Config) -> Config:
    _kind_of(config, "vision_config", "clip_vision_model", ("clip_vision_model",))
    return read(CLIP, config["vision_config"] or _DEFAULT_VISION, "model.config.vision_config")


def _text_value(name: str) -> Computed:
    """Return the entry for a value of the text model, which is null if its class lacks the field."""
    return Computed(name=name, value=lambda config: config["text_config"].get(name))


def _unknown_layer(config: Config) -> str | None:
    layers, layer = int(config["vision_config"]["num_hidden_layers"]), config["vision_feature_layer"]
    if -layers <= layer <= layers and layer != 0:
        return None
    return f"{shown(layer)} is none of the tower's {layers:,} layers: use -{layers:,} to {layers:,}, but 0"


def _tied_anywhere(config: Config) -> bool:
    return bool(config["tie_word_embeddings"] or config["text_config"]["tie_word_embeddings"])


def _projector(config: Config) -> Parts:
    seen, hidden = config["vision_config"]["hidden_size"], config["text_config"]["hidden_size"]
    bias = config["projector_bias"]
    return (
        linear(f"{PROJECTOR}.linear_1", seen, hidden, bias=bias),
        linear(f"{PROJECTOR}.linear_2", hidden, hidden, bias=bias),
    )


def _llava(config: Config) -> Parts:
    text = config["text_config"]
    mistral = config["text_model_type"] == "mistral"
    kind = LayerKind(attention=attention_type(text)) if mistral else LayerKind()
    layer = mistral_layer(text) if mistral else llama_layer(text)
    return (
        *clip(config["vision_config"], TOWER, forward.used_layers(config)),
        *_projector(config),
        embedding(f"{TEXT_MODEL}.embed_tokens", text["vocab_size"], text["hidden_size"]),
        stack(f"{TEXT_MODEL}.layers", uniform_layers(text, kind), lambda _kind: layer),
        norm(f"{TEXT_MODEL}.norm", text["hidden_size"]),
        *frequencies(f"{TEXT_MODEL}.rotary_emb", text["rotary_dim"]),
        linear("lm_head", text["hidden_size"], text["vocab_size"]),
    )


def _without_effect(config: Config) -> tuple[str, ...]:
    """Return the parts of the tower after the layer whose output is used."""
    unused = unused_layers(config["vision_config"], forward.used_layers(config))
    return (f"{TOWER}.post_layernorm", *(f"{TOWER}.encoder.layers.{index}." for index in unused))


_NAMES = dict.fromkeys(entry.name for entries in _TEXTS.values() for entry in entries if not isinstance(entry, Check))

#: The fields that both text models have.
_SHARED = tuple(entry for entry in LLAMA if entry.name not in ("attention_bias", "mlp_bias"))

_ENTRIES: tuple[Entry, ...] = (
    nested("text_config", ())[0],
    Computed(name="text_model_type", value=_text_type),
    Computed(name="text_config", value=_text),
    nested("vision_config", ())[0],
    Computed(name="vision_config", value=_vision),
    *map(_text_value, _NAMES),
    count("vision_feature_layer", -2, minimum=-MOST_LAYERS),
    Check(name="vision_feature_layer", problem=_unknown_layer),
    Field(name="vision_feature_select_strategy", type="text", default="default", choices=("default", "full")),
    activation("gelu", name="projector_act", spelled="projector_hidden_act"),
    flag("projector_bias", True, spelled="multimodal_projector_bias"),
    count("image_token_id", 32_000, aliases=("image_token_index",)),
    tie(default=False),
)

_LLAVA = Family(
    model_type="llava",
    auto_class="image-text-to-text",
    entries=(*_ENTRIES, Computed(name="tie_word_embeddings", value=_tied_anywhere)),
    text=_SHARED,
    parts=_llava,
    forward=forward.LLAVA,
    tied={"lm_head.weight": f"{TEXT_MODEL}.embed_tokens.weight"},
    notes=(TEXT_ALONE,),
    idle=(f"{TOWER}.", PROJECTOR),
    idle_with_images=_without_effect,
)


def _llava_next(config: Config) -> Parts:
    return (bare("model", "other", image_newline=(config["text_config"]["hidden_size"],)), *_llava(config))


def _wrong_resolution(config: Config) -> str | None:
    """Return an error for a resolution that is no multiple of the tower's size in both directions."""
    side = int(config["vision_config"]["image_size"])
    for pair in config["image_grid_pinpoints"]:
        whole = isinstance(pair, list | tuple) and len(pair) == len("hw") and all(isinstance(n, int) for n in pair)
        if not whole or any(n < side or n % side for n in pair):
            return f"{shown(pair)} is no height and width that are multiples of the tower's image_size, {side:,}"
    return None if config["image_grid_pinpoints"] else "must list at least one height and width"


FAMILIES = (
    _LLAVA,
    replace(
        _LLAVA,
        model_type="llava_next",
        entries=(
            *_ENTRIES,
            Field(name="image_grid_pinpoints", type="items", default=None, nullable=True, null=tiles.usual_resolutions),
            Check(name="image_grid_pinpoints", problem=_wrong_resolution),
        ),
        parts=_llava_next,
        forward=tiles.LLAVA_NEXT,
        idle=("model.image_newline", *_LLAVA.idle),
    ),
)
