"""PaliGemma: SigLIP, a linear projection, and the text model of Gemma."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.architecture.config import Check, Computed, Config, ContradictionError
from calculator.architecture.model import TEXT_ALONE, stack
from calculator.architecture.module import Buffer, embedding, linear, norm
from calculator.common.errors import shown
from calculator.families.blocks import uniform_layers
from calculator.families.family import Family, Parts
from calculator.families.fields import count, size, tie
from calculator.families.gemma.weights import FAMILIES as GEMMA
from calculator.families.gemma.weights import gemma_layer
from calculator.families.image_encoder import SIGLIP, siglip
from calculator.families.nested import from_text, nested, with_defaults
from calculator.families.paligemma import forward
from calculator.families.paligemma.forward import PROJECTOR, TEXT_MODEL, TOWER
from calculator.families.rope import frequencies

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The defaults of the text model's class, which a file leaves out of `text_config`.
#: Source: transformers/models/gemma/configuration_gemma.py.
_TEXT = with_defaults(
    (
        *next(family.entries for family in GEMMA if family.model_type == "gemma"),
        Computed(
            name="use_bidirectional_attention",
            value=lambda config: config["use_bidirectional_attention"] in (None, True),
        ),
    ),
    {
        "vocab_size": 256_000,
        "hidden_size": 3072,
        "intermediate_size": 24_576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
    },
)

#: The text and vision models of a file without their configs.
#: Source: configuration_paligemma.py, sub_configs_defaults.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "text_config": {
        "model_type": "gemma",
        "vocab_size": 257_152,
        "hidden_size": 2048,
        "intermediate_size": 16_384,
        "num_hidden_layers": 18,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
    },
    "vision_config": {
        "hidden_size": 1152,
        "intermediate_size": 4096,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "vision_use_head": False,
    },
}


def _with_parts(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**raw, **{name: raw[name] if raw.get(name) else dict(usual) for name, usual in _DEFAULTS.items()}}


def _text_type(config: Config) -> str:
    kind = (config["text_config"] or {}).get("model_type", "gemma")
    if kind == "gemma2":
        message = (
            "PaliGemma 2 is not modeled: transformers refuses sdpa for its Gemma 2, and with eager attention"
            ' "engine": "traced" answers'
        )
        raise ContradictionError("text_config", message)
    if kind != "gemma":
        raise ContradictionError("text_config", f"its model_type must be gemma, not {shown(kind)}")
    return "gemma"


def _other_width(config: Config) -> str | None:
    hidden, projected = config["text_config"]["hidden_size"], config["projection_dim"]
    return None if hidden == projected else f"must be the text model's hidden_size, {shown(hidden)}"


def _parts(config: Config) -> Parts:
    text, vision = config["text_config"], config["vision_config"]
    vocabulary, hidden = text["vocab_size"], text["hidden_size"]
    return (
        *siglip(vision, TOWER),
        linear(f"{PROJECTOR}.linear", vision["hidden_size"], hidden, bias=True),
        embedding(f"{TEXT_MODEL}.embed_tokens", vocabulary, hidden),
        Buffer(name=f"{TEXT_MODEL}.embed_tokens.embed_scale", shape=(), dtype="model"),
        stack(f"{TEXT_MODEL}.layers", uniform_layers(text), lambda _kind: gemma_layer(text)),
        norm(f"{TEXT_MODEL}.norm", hidden),
        *frequencies(f"{TEXT_MODEL}.rotary_emb", text["rotary_dim"]),
        linear("lm_head", hidden, vocabulary),
    )


FAMILIES = (
    Family(
        model_type="paligemma",
        auto_class="image-text-to-text",
        entries=(
            nested("text_config", ())[0],
            Computed(name="text_model_type", value=_text_type),
            nested("text_config", _TEXT)[1],
            *nested("vision_config", SIGLIP),
            *from_text(_TEXT),
            size("outer_hidden_size", 2048, aliases=("hidden_size",)),
            size("projection_dim", 2048),
            Check(name="projection_dim", problem=_other_width),
            count("image_token_id", 256_000, aliases=("image_token_index",)),
            tie(default=True),
        ),
        text=_TEXT,
        prepare=_with_parts,
        parts=_parts,
        forward=forward.PALIGEMMA,
        tied={"lm_head.weight": f"{TEXT_MODEL}.embed_tokens.weight"},
        notes=(TEXT_ALONE,),
        idle=(f"{TOWER}.", PROJECTOR),
    ),
)
