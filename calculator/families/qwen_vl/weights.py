"""Qwen 2, 2.5 and 3 VL: a vision tower that turns patches into tokens, and Qwen's text model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Check, Computed, Config
from calculator.architecture.model import TEXT_ALONE, stack
from calculator.architecture.module import embedding, linear, norm
from calculator.common.errors import shown
from calculator.families.blocks import Owned, kinds_by_attention, uniform_layers
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    ONE_HEAD_SIZE,
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
from calculator.families.nested import from_text, nested, text_at_the_top, with_defaults
from calculator.families.qwen.weights import qwen2_layer, qwen3_layer, qwen3_moe_layer, sparse_fields, sparse_kinds
from calculator.families.qwen_vl import forward
from calculator.families.qwen_vl.towers import (
    QWEN2_5_VISION,
    QWEN2_VISION,
    QWEN3_VISION,
    qwen2_5_tower,
    qwen2_tower,
    qwen3_tower,
)
from calculator.families.rope import ROPE_TYPES, frequencies, rope
from calculator.families.windows import layer_types, switched_window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from calculator.architecture.config import Entry
    from calculator.architecture.layer_kind import LayerKind

#: The type that the text models use for "mrope".
#: Source: convert_rope_params_to_dict of their config classes.
_TYPES = {**{kind: kind for kind in ROPE_TYPES}, "mrope": "default"}


def _wrong_sections(default: Sequence[int]) -> Check:
    def problem(config: Config) -> str | None:
        sections, pairs = config["rope_parameters"].get("mrope_section", default), int(config["rotary_dim"]) // 2
        valid = isinstance(sections, list | tuple) and len(sections) == len(default)
        if valid and all(isinstance(section, int) and section > 0 for section in sections) and sum(sections) == pairs:
            return None
        return f"mrope_section {shown(sections)} must be {len(default)} numbers whose sum is the {pairs} rotated pairs"

    return Check(name="rope_parameters", problem=problem)


def _slides(config: Config, index: int) -> bool:
    return config["sliding_window"] is not None and index >= config["max_window_layers"]


_QWEN2_5_TEXT = with_defaults(
    (
        *(entry for entry in grouped_sizes(kv=8) if entry.name != "head_dim"),
        ONE_HEAD_SIZE[1],
        positions(32_768),
        *rope(theta=1e6, types=_TYPES),
        _wrong_sections((16, 24, 24)),
        activation(),
        number("rms_norm_eps", 1e-5),
        *switched_window(4096),
        size("max_window_layers", 80, minimum=0),
        *layer_types(_slides),
        *dropouts("attention_dropout", nullable=True),
        tie(default=False),
        *padding(),
    ),
    {
        "vocab_size": 152_064,
        "hidden_size": 8192,
        "intermediate_size": 29_568,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
    },
)

_QWEN3_TEXT = with_defaults(
    (
        *grouped_sizes(kv=32, head=128),
        positions(128_000),
        *rope(theta=500_000.0),
        _wrong_sections((24, 20, 20)),
        activation(),
        number("rms_norm_eps", 1e-6),
        flag("attention_bias", False),
        *dropouts("attention_dropout"),
        *padding(),
    ),
    {
        "vocab_size": 151_936,
        "hidden_size": 4096,
        "intermediate_size": 22_016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
)


_QWEN3_MOE_TEXT = with_defaults(
    (
        *grouped_sizes(kv=16),
        positions(128_000),
        *rope(theta=500_000.0),
        _wrong_sections((24, 20, 20)),
        activation(),
        number("rms_norm_eps", 1e-6),
        *experts(4, aliases=("num_local_experts",)),
        *sparse_fields(),
        # The router divides by the sum of its weights whatever the file sets (Qwen3VLMoeTextTopKRouter).
        Computed(name="norm_topk_prob", value=lambda _config: True),
        Computed(name="layer_types", value=lambda config: ("full_attention",) * int(config["num_hidden_layers"])),
        flag("attention_bias", False),
        *dropouts("attention_dropout"),
        *padding(),
    ),
    {
        "vocab_size": 151_936,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "moe_intermediate_size": 1408,
        "num_experts": 60,
    },
)


def _parts(config: Config, tower: Parts, kinds: Sequence[LayerKind], layer: Callable[[LayerKind], Owned]) -> Parts:
    text, model = config["text_config"], "model.language_model"
    return (
        *tower,
        embedding(f"{model}.embed_tokens", text["vocab_size"], text["hidden_size"]),
        stack(f"{model}.layers", kinds, layer),
        norm(f"{model}.norm", text["hidden_size"]),
        *frequencies(f"{model}.rotary_emb", text["rotary_dim"]),
        linear("lm_head", text["hidden_size"], text["vocab_size"]),
    )


def _qwen2_5_vl(config: Config) -> Parts:
    text, tower = config["text_config"], qwen2_5_tower(config["vision_config"])
    return _parts(config, tower, kinds_by_attention(text), lambda _kind: qwen2_layer(text))


def _qwen2_vl(config: Config) -> Parts:
    text, tower = config["text_config"], qwen2_tower(config["vision_config"])
    return _parts(config, tower, kinds_by_attention(text), lambda _kind: qwen2_layer(text))


def _qwen3_vl(config: Config) -> Parts:
    text, tower = config["text_config"], qwen3_tower(config["vision_config"])
    return _parts(config, tower, uniform_layers(text), lambda _kind: qwen3_layer(text))


def _qwen3_vl_moe(config: Config) -> Parts:
    text, tower = config["text_config"], qwen3_tower(config["vision_config"])
    return _parts(config, tower, sparse_kinds(text), lambda kind: qwen3_moe_layer(text, kind))


def _tied_anywhere(config: Config) -> bool:
    return bool(config["tie_word_embeddings"] or config["text_config"]["tie_word_embeddings"])


def _entries(text: tuple[Entry, ...], vision: tuple[Entry, ...]) -> tuple[Entry, ...]:
    return (
        *nested("text_config", text),
        *nested("vision_config", vision),
        *from_text(text),
        tie(default=False),
    )


FAMILIES = (
    Family(
        model_type="qwen2_vl",
        auto_class="image-text-to-text",
        entries=(
            *_entries(_QWEN2_5_TEXT, QWEN2_VISION),
            Computed(name="tie_word_embeddings", value=_tied_anywhere),
        ),
        text=_QWEN2_5_TEXT,
        prepare=text_at_the_top,
        parts=_qwen2_vl,
        forward=forward.QWEN2_VL,
        tied={"lm_head.weight": "model.language_model.embed_tokens.weight"},
        notes=(TEXT_ALONE,),
        idle=("model.visual.",),
    ),
    Family(
        model_type="qwen2_5_vl",
        auto_class="image-text-to-text",
        entries=(
            *_entries(_QWEN2_5_TEXT, QWEN2_5_VISION),
            Computed(name="tie_word_embeddings", value=_tied_anywhere),
        ),
        text=_QWEN2_5_TEXT,
        prepare=text_at_the_top,
        parts=_qwen2_5_vl,
        forward=forward.QWEN2_5_VL,
        tied={"lm_head.weight": "model.language_model.embed_tokens.weight"},
        notes=(TEXT_ALONE,),
        idle=("model.visual.",),
    ),
    Family(
        model_type="qwen3_vl",
        auto_class="image-text-to-text",
        entries=_entries(_QWEN3_TEXT, QWEN3_VISION),
        text=_QWEN3_TEXT,
        parts=_qwen3_vl,
        forward=forward.QWEN3_VL,
        tied={"lm_head.weight": "model.language_model.embed_tokens.weight"},
        notes=(TEXT_ALONE,),
        idle=("model.visual.",),
    ),
    Family(
        model_type="qwen3_vl_moe",
        auto_class="image-text-to-text",
        entries=_entries(_QWEN3_MOE_TEXT, QWEN3_VISION),
        text=_QWEN3_MOE_TEXT,
        parts=_qwen3_vl_moe,
        forward=forward.QWEN3_VL_MOE,
        tied={"lm_head.weight": "model.language_model.embed_tokens.weight"},
        notes=(TEXT_ALONE,),
        idle=("model.visual.",),
        adds_router_loss=True,
    ),
)
