"""Qwen 3.5 with its vision tower: Qwen 3 VL's tower with one merger, and a dense text model or one with experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Computed
from calculator.architecture.model import TEXT_ALONE, stack
from calculator.architecture.module import embedding, linear, norm
from calculator.families.blocks import kinds_by_attention
from calculator.families.family import Family, Parts
from calculator.families.fields import tie
from calculator.families.nested import from_text, nested, with_defaults
from calculator.families.qwen3_5.weights import QWEN3_5_MOE_TEXT, QWEN3_5_TEXT, WITHOUT_KERNELS, qwen3_5_layer
from calculator.families.qwen3_5_vl import forward
from calculator.families.qwen_vl.towers import QWEN3_VISION, qwen3_tower
from calculator.families.rope import frequencies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.config import Config, Entry
    from calculator.architecture.layer_kind import LayerKind

#: Source: configuration_qwen3_5.py, Qwen3_5TextConfig.
_TEXT = with_defaults(
    QWEN3_5_TEXT,
    {
        "vocab_size": 248_320,
        "hidden_size": 4096,
        "intermediate_size": 12_288,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
    },
)

#: Source: configuration_qwen3_5_moe.py, Qwen3_5MoeTextConfig.
_MOE_TEXT = with_defaults(
    QWEN3_5_MOE_TEXT,
    {
        "vocab_size": 248_320,
        "hidden_size": 2048,
        "num_hidden_layers": 40,
        "num_attention_heads": 16,
        "num_experts": 256,
    },
)

#: The tower without features of earlier layers.
#: Source: Qwen3_5VisionConfig.
_VISION: tuple[Entry, ...] = (
    *(entry for entry in QWEN3_VISION if entry.name != "deepstack_visual_indexes"),
    Computed(name="deepstack_visual_indexes", value=lambda _config: ()),
)


def _parts(config: Config, kinds: Sequence[LayerKind]) -> Parts:
    text, model = config["text_config"], "model.language_model"
    return (
        *qwen3_tower(config["vision_config"]),
        embedding(f"{model}.embed_tokens", text["vocab_size"], text["hidden_size"]),
        stack(f"{model}.layers", kinds, lambda kind: qwen3_5_layer(text, kind)),
        norm(f"{model}.norm", text["hidden_size"]),
        *frequencies(f"{model}.rotary_emb", text["rotary_dim"]),
        linear("lm_head", text["hidden_size"], text["vocab_size"]),
    )


def _qwen3_5(config: Config) -> Parts:
    return _parts(config, kinds_by_attention(config["text_config"]))


def _qwen3_5_moe(config: Config) -> Parts:
    return _parts(config, kinds_by_attention(config["text_config"], mlp="sparse"))


def _entries(text: tuple[Entry, ...]) -> tuple[Entry, ...]:
    return (*nested("text_config", text), *nested("vision_config", _VISION), *from_text(text), tie(default=False))


FAMILIES = (
    Family(
        model_type="qwen3_5",
        auto_class="image-text-to-text",
        entries=_entries(_TEXT),
        text=_TEXT,
        parts=_qwen3_5,
        forward=forward.QWEN3_5_VL,
        tied={"lm_head.weight": "model.language_model.embed_tokens.weight"},
        notes=(TEXT_ALONE, WITHOUT_KERNELS),
        idle=("model.visual.",),
    ),
    Family(
        model_type="qwen3_5_moe",
        auto_class="image-text-to-text",
        entries=_entries(_MOE_TEXT),
        text=_MOE_TEXT,
        parts=_qwen3_5_moe,
        forward=forward.QWEN3_5_MOE_VL,
        tied={"lm_head.weight": "model.language_model.embed_tokens.weight"},
        notes=(TEXT_ALONE, WITHOUT_KERNELS),
        idle=("model.visual.",),
        adds_router_loss=True,
    ),
)
