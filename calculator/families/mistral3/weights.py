"""Mistral 3: Pixtral's vision tower, a projector that merges patches, and the text model of Mistral or Ministral 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.architecture.config import Computed, Config, ContradictionError, read
from calculator.architecture.dimension import Dim
from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.model import TEXT_ALONE, stack
from calculator.architecture.module import bare, embedding, linear, norm
from calculator.common.errors import shown
from calculator.families.blocks import Owned, gated_mlp, uniform_layers
from calculator.families.family import Family, Parts
from calculator.families.fields import DIVISIBLE, MOST_LAYERS, activation, count, dropouts, flag, size, tie
from calculator.families.llama.weights import MISTRAL, mistral_layer
from calculator.families.ministral.weights import MINISTRAL3
from calculator.families.mistral3 import forward
from calculator.families.nested import from_text, nested, with_defaults
from calculator.families.rope import frequencies
from calculator.families.windows import attention_type

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.architecture.config import Entry

#: The default sizes that a file leaves out of `text_config`, which is saved as the difference from its class's
#: defaults.
_SIZES: Mapping[str, int] = {
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_attention_heads": 32,
}


#: The fields of each text model. Source: configuration_mistral.py and configuration_ministral3.py.
_TEXTS: Mapping[str, tuple[Entry, ...]] = {
    "mistral": with_defaults(MISTRAL, {**_SIZES, "vocab_size": 32_000, "num_hidden_layers": 32}),
    "ministral3": with_defaults(MINISTRAL3, {**_SIZES, "vocab_size": 131_072, "num_hidden_layers": 34}),
}

#: The text model of a file without `text_config`. Source: configuration_mistral3.py, sub_configs_defaults.
_DEFAULT_TEXT: Mapping[str, Any] = {
    "model_type": "mistral",
    "vocab_size": 131_072,
    "hidden_size": 5120,
    "intermediate_size": 32_768,
    "num_hidden_layers": 40,
    "head_dim": 128,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e9,
    "sliding_window": None,
}

#: The vision tower of a file without `vision_config`. Its image and patch size differ from the defaults of its class.
_DEFAULT_VISION: Mapping[str, Any] = {"image_size": 1540, "patch_size": 14}

#: Source: transformers/models/pixtral/configuration_pixtral.py.
_VISION: tuple[Entry, ...] = (
    size("hidden_size", 1024),
    size("intermediate_size", 4096),
    size("num_hidden_layers", 24, maximum=MOST_LAYERS),
    size("num_attention_heads", 16),
    DIVISIBLE,
    size("num_channels", 3),
    size("image_size", 1024),
    size("patch_size", 16),
    activation("gelu"),
    *dropouts("attention_dropout"),
)


def _text_type(config: Config) -> str:
    kind = (config["text_config"] or _DEFAULT_TEXT).get("model_type", "mistral")
    if not isinstance(kind, str) or kind not in _TEXTS:
        message = f"its model_type must be one of {', '.join(_TEXTS)}, not {shown(kind)}"
        raise ContradictionError("text_config", message)
    return kind


def _text(config: Config) -> Config:
    entries = _TEXTS[config["text_model_type"]]
    return read(entries, config["text_config"] or _DEFAULT_TEXT, "model.config.text_config")


def _vision(config: Config) -> Config:
    return read(_VISION, config["vision_config"] or _DEFAULT_VISION, "model.config.vision_config")


def _vision_layer(config: Config) -> Owned:
    hidden = config["hidden_size"]
    return (
        norm("attention_norm", hidden),
        *gated_mlp(config, name="feed_forward"),
        *(linear(f"attention.{name}_proj", hidden, hidden) for name in ("k", "v", "q", "o")),
        norm("ffn_norm", hidden),
    )


def _tower(config: Config, path: str) -> Parts:
    hidden, patch = config["hidden_size"], config["patch_size"]
    head = int(hidden) // int(config["num_attention_heads"])
    return (
        bare(f"{path}.patch_conv", "other", weight=(hidden, config["num_channels"], patch, patch)),
        norm(f"{path}.ln_pre", hidden),
        stack(f"{path}.transformer.layers", uniform_layers(config), lambda _kind: _vision_layer(config)),
        *frequencies(f"{path}.patch_positional_embedding", head),
    )


def _projector(config: Config, path: str) -> Parts:
    seen, hidden, bias = config["vision_config"]["hidden_size"], config["hidden_size"], config["projector_bias"]
    merged = Dim(int(seen) * int(config["spatial_merge_size"]) ** 2, "hidden_size · spatial_merge_size²")
    return (
        norm(f"{path}.norm", seen),
        linear(f"{path}.patch_merger.merging_layer", merged, seen),
        linear(f"{path}.linear_1", seen, hidden, bias=bias),
        linear(f"{path}.linear_2", hidden, hidden, bias=bias),
    )


def _parts(config: Config) -> Parts:
    text, model = config["text_config"], "model.language_model"
    kind = LayerKind(attention=attention_type(text))
    return (
        *_tower(config["vision_config"], "model.vision_tower"),
        *_projector(config, "model.multi_modal_projector"),
        embedding(f"{model}.embed_tokens", text["vocab_size"], text["hidden_size"]),
        stack(f"{model}.layers", uniform_layers(text, kind), lambda _kind: mistral_layer(text)),
        norm(f"{model}.norm", text["hidden_size"]),
        *frequencies(f"{model}.rotary_emb", text["rotary_dim"]),
        linear("lm_head", text["hidden_size"], text["vocab_size"]),
    )


FAMILIES = (
    Family(
        model_type="mistral3",
        auto_class="image-text-to-text",
        entries=(
            nested("text_config", ())[0],
            Computed(name="text_model_type", value=_text_type),
            Computed(name="text_config", value=_text),
            nested("vision_config", ())[0],
            Computed(name="vision_config", value=_vision),
            *from_text(MINISTRAL3),
            size("spatial_merge_size", 2),
            flag("projector_bias", False, spelled="multimodal_projector_bias"),
            count("vision_feature_layer", -1, minimum=-MOST_LAYERS),
            tie(default=True),
        ),
        text=MINISTRAL3,
        parts=_parts,
        forward=forward.MISTRAL3,
        tied={"lm_head.weight": "model.language_model.embed_tokens.weight"},
        notes=(TEXT_ALONE,),
        idle=("model.vision_tower.", "model.multi_modal_projector"),
    ),
)
