"""InternVL: its own vision tower, a projector of merged patches, and a text model of Qwen."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from calculator.architecture.config import Check, Computed, Config, ContradictionError, Field, read
from calculator.architecture.dimension import Dim
from calculator.architecture.model import TEXT_ALONE, stack
from calculator.architecture.module import Module, Parameter, bare, embedding, linear, norm
from calculator.common.errors import shown
from calculator.families.blocks import Owned, kinds_by_attention, uniform_layers
from calculator.families.family import Family, Parts
from calculator.families.fields import DIVISIBLE, MOST_LAYERS, activation, count, dropouts, flag, number, size, tie
from calculator.families.internvl import forward
from calculator.families.internvl.forward import PROJECTOR, TEXT_MODEL, TOWER
from calculator.families.internvl.tiles import process
from calculator.families.nested import nested, with_defaults
from calculator.families.qwen.weights import FAMILIES as QWEN
from calculator.families.qwen.weights import qwen2_layer, qwen3_layer, qwen3_moe_layer, sparse_kinds
from calculator.families.rope import frequencies

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from calculator.architecture.config import Entry
    from calculator.inputs.training import Training

#: The sizes that a file leaves out of `text_config`, which is saved as the difference from its class's defaults.
#: Source: configuration_qwen2.py, configuration_qwen3.py and configuration_qwen3_moe.py.
_SIZES: Mapping[str, Mapping[str, int]] = {
    kind: {
        "vocab_size": 151_936,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": depth,
        "num_attention_heads": 32,
        **more,
    }
    for kind, hidden, inner, depth, more in (
        ("qwen2", 4096, 22_016, 32, {}),
        ("qwen3", 4096, 22_016, 32, {}),
        ("qwen3_moe", 2048, 6144, 24, {"moe_intermediate_size": 768, "num_experts": 128}),
    )
}

_TEXTS: Mapping[str, tuple[Entry, ...]] = {
    family.model_type: with_defaults(family.entries, _SIZES[family.model_type])
    for family in QWEN
    if family.model_type in _SIZES
}

#: Source: transformers/models/internvl/configuration_internvl.py, InternVLVisionConfig.
_VISION: tuple[Entry, ...] = (
    size("hidden_size", 1024),
    size("num_hidden_layers", 24, maximum=MOST_LAYERS),
    size("num_attention_heads", 16),
    DIVISIBLE,
    flag("attention_bias", False),
    flag("use_qk_norm", False),
    size("intermediate_size", 4096),
    activation("gelu"),
    *dropouts("hidden_dropout_prob", "attention_dropout", "projection_dropout"),
    Field(name="norm_type", type="text", default="layer_norm", choices=("layer_norm", "rms_norm")),
    number("layer_norm_eps", 1e-6),
    size("image_size", 448),
    size("patch_size", 14),
    size("num_channels", 3),
    flag("use_mask_token", False),
    flag("use_absolute_position_embeddings", True),
    flag("use_mean_pooling", True),
)


def _squares(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Replace a height and a width that are equal by one number."""
    vision = raw.get("vision_config")
    if not isinstance(vision, dict):
        return raw
    sides = {name: vision.get(name) for name in ("image_size", "patch_size")}
    equal = {name: pair[0] for name, pair in sides.items() if isinstance(pair, list) and len(set(map(str, pair))) == 1}
    return {**raw, "vision_config": {**vision, **equal}}


def _text_type(config: Config) -> str:
    kind = (config["text_config"] or {}).get("model_type", "qwen2")
    if not isinstance(kind, str) or kind not in _TEXTS:
        message = f"its model_type must be one of {', '.join(_TEXTS)}, not {shown(kind)}"
        raise ContradictionError("text_config", message)
    return kind


def _text(config: Config) -> Config:
    return read(_TEXTS[config["text_model_type"]], config["text_config"] or {}, "model.config.text_config")


def _text_value(name: str) -> Computed:
    """Return the entry for a value of the text model, which is null if its class lacks the field."""
    return Computed(name=name, value=lambda config: config["text_config"].get(name))


def _another_layer(config: Config) -> str | None:
    layer = config["vision_feature_layer"]
    return None if layer == -1 else f"must be -1, since the output of layer {shown(layer)} of the tower is not modeled"


def _merge_problem(config: Config) -> str | None:
    """Return an error if the patches can't be merged into whole tokens."""
    vision, ratio = config["vision_config"], config["downsample_ratio"]
    side, factor = int(vision["image_size"]) // int(vision["patch_size"]), 1 / ratio
    if factor != int(factor):
        return f"must be 1 divided by a whole number, not {shown(ratio)}"
    return f"1 / {shown(ratio)} does not divide the {side:,} patches of a side" if side % factor else None


def _attention(config: Config) -> Owned:
    hidden, bias = config["hidden_size"], config["attention_bias"]
    normed = ("q_norm", "k_norm") if config["use_qk_norm"] else ()
    return (
        *(linear(f"attention.{name}_proj", hidden, hidden, bias=bias) for name in ("q", "k", "v")),
        linear("attention.projection_layer", hidden, hidden, bias=True),
        *(norm(f"attention.{name}", hidden) for name in normed),
    )


def _layer(config: Config) -> Owned:
    hidden, inner, bias = config["hidden_size"], config["intermediate_size"], config["norm_type"] == "layer_norm"
    return (
        bare("", "other", lambda_1=(hidden,), lambda_2=(hidden,)),
        *_attention(config),
        linear("mlp.fc1", hidden, inner, bias=True),
        linear("mlp.fc2", inner, hidden, bias=True),
        norm("layernorm_before", hidden, bias=bias),
        norm("layernorm_after", hidden, bias=bias),
    )


def _is_single(config: Config, training: Training) -> bool:
    """Return whether the tower runs a single tile. The gradient of its class token is then a view."""
    images = training.images if training.image_count == 1 else None
    return images is not None and process(config, images).tiles == 1


def _embeddings(config: Config, is_single: Callable[[Training], bool]) -> Module:
    """Return the class token, which precedes the patches, a token for masked patches, and the positions."""
    hidden, patches = config["hidden_size"], (int(config["image_size"]) // int(config["patch_size"])) ** 2
    sequence = (1, Dim(patches + 1, "patches + 1"), hidden)
    masked = (Parameter(name="mask_token", shape=(1, 1, hidden)),) if config["use_mask_token"] else ()
    positions = config["use_absolute_position_embeddings"]
    return Module(
        name=f"{TOWER}.embeddings",
        kind="other",
        parameters=(
            Parameter(name="cls_token", shape=(1, 1, hidden), gradient_base=sequence, is_single=is_single),
            *masked,
            *((Parameter(name="position_embeddings", shape=sequence),) if positions else ()),
        ),
    )


def _tower(whole: Config) -> Parts:
    config = whole["vision_config"]
    hidden, patch = config["hidden_size"], config["patch_size"]
    kernel = (hidden, config["num_channels"], patch, patch)
    return (
        _embeddings(config, partial(_is_single, whole)),
        bare(f"{TOWER}.embeddings.patch_embeddings.projection", "other", weight=kernel, bias=(hidden,)),
        stack(f"{TOWER}.encoder.layer", uniform_layers(config), lambda _kind: _layer(config)),
        *(() if config["use_mean_pooling"] else (norm(f"{TOWER}.layernorm", hidden, bias=True),)),
    )


def _projector(config: Config) -> Parts:
    seen, hidden = config["vision_config"]["hidden_size"], config["text_config"]["hidden_size"]
    merged = Dim(int(seen) * int(1 / config["downsample_ratio"]) ** 2, "hidden_size / downsample_ratio²")
    return (
        norm(f"{PROJECTOR}.layer_norm", merged, bias=True),
        linear(f"{PROJECTOR}.linear_1", merged, hidden, bias=True),
        linear(f"{PROJECTOR}.linear_2", hidden, hidden, bias=True),
    )


def _parts(config: Config) -> Parts:
    text, kind = config["text_config"], config["text_model_type"]
    sparse = kind == "qwen3_moe"
    layer = {"qwen2": qwen2_layer, "qwen3": qwen3_layer}.get(kind, qwen3_layer)
    return (
        *_tower(config),
        *_projector(config),
        embedding(f"{TEXT_MODEL}.embed_tokens", text["vocab_size"], text["hidden_size"]),
        stack(
            f"{TEXT_MODEL}.layers",
            sparse_kinds(text) if sparse else kinds_by_attention(text),
            partial(qwen3_moe_layer, text) if sparse else lambda _kind: layer(text),
        ),
        norm(f"{TEXT_MODEL}.norm", text["hidden_size"]),
        *frequencies(f"{TEXT_MODEL}.rotary_emb", text["rotary_dim"]),
        linear("lm_head", text["hidden_size"], text["vocab_size"]),
    )


#: The fields that all text models have.
_SHARED = tuple(
    entry
    for entry in _TEXTS["qwen2"]
    if all(entry.name in {entry.name for entry in entries} for entries in _TEXTS.values())
)

_NAMES = dict.fromkeys(entry.name for entries in _TEXTS.values() for entry in entries if not isinstance(entry, Check))

FAMILIES = (
    Family(
        model_type="internvl",
        auto_class="image-text-to-text",
        entries=(
            nested("text_config", ())[0],
            Computed(name="text_model_type", value=_text_type),
            Computed(name="text_config", value=_text),
            *nested("vision_config", _VISION),
            *map(_text_value, _NAMES),
            number("downsample_ratio", 0.5, minimum=1e-3, maximum=1),
            Check(name="downsample_ratio", problem=_merge_problem),
            activation("gelu", name="projector_act", spelled="projector_hidden_act"),
            count("vision_feature_layer", -1, minimum=-MOST_LAYERS),
            Check(name="vision_feature_layer", problem=_another_layer),
            Field(name="vision_feature_select_strategy", type="text", default="default", choices=("default", "full")),
            count("image_token_id", 151_667),
            tie(default=True),
        ),
        text=_SHARED,
        prepare=_squares,
        parts=_parts,
        forward=forward.INTERNVL,
        tied={"lm_head.weight": f"{TEXT_MODEL}.embed_tokens.weight"},
        notes=(TEXT_ALONE,),
        idle=(f"{TOWER}.", PROJECTOR),
    ),
)
