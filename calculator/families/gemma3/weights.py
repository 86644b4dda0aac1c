"""Gemma 3 with its vision tower: SigLIP, a projection, and the text model."""

from __future__ import annotations

from calculator.architecture.config import Check, Config
from calculator.architecture.model import TEXT_ALONE, stack
from calculator.architecture.module import Buffer, bare, embedding, linear, norm
from calculator.common.errors import shown
from calculator.families.blocks import kinds_by_attention
from calculator.families.family import Family, Parts
from calculator.families.fields import count, size, tie
from calculator.families.gemma.weights import GEMMA3_TEXT, gemma3_layer
from calculator.families.gemma3 import forward
from calculator.families.image_encoder import SIGLIP, siglip
from calculator.families.nested import from_text, nested, with_defaults
from calculator.families.rope import frequencies_per_type

#: The defaults of the class. A file leaves out fields of `text_config` that equal the defaults.
#: Source: transformers/models/gemma3/configuration_gemma3.py, Gemma3TextConfig.
_TEXT_DEFAULTS = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
}

_TEXT = with_defaults(GEMMA3_TEXT, _TEXT_DEFAULTS)


def _unpoolable(config: Config) -> str | None:
    vision = config["vision_config"]
    side, wanted = int(vision["image_size"]) // int(vision["patch_size"]), int(config["mm_tokens_per_image"] ** 0.5)
    return (
        None if side >= wanted else f"{shown(config['mm_tokens_per_image'])} tokens are more than the image's patches"
    )


def _gemma3(config: Config) -> Parts:
    text, vision = config["text_config"], config["vision_config"]
    vocabulary, hidden, seen = text["vocab_size"], text["hidden_size"], vision["hidden_size"]
    model = "model.language_model"
    return (
        *siglip(vision, "model.vision_tower"),
        bare("model.multi_modal_projector", "other", mm_input_projection_weight=(seen, hidden)),
        norm("model.multi_modal_projector.mm_soft_emb_norm", seen),
        embedding(f"{model}.embed_tokens", vocabulary, hidden),
        Buffer(name=f"{model}.embed_tokens.embed_scale", shape=(), dtype="model"),
        stack(f"{model}.layers", kinds_by_attention(text), lambda _kind: gemma3_layer(text)),
        norm(f"{model}.norm", hidden),
        *frequencies_per_type(text, f"{model}.rotary_emb"),
        linear("lm_head", hidden, vocabulary),
    )


FAMILIES = (
    Family(
        model_type="gemma3",
        auto_class="image-text-to-text",
        entries=(
            *nested("text_config", _TEXT),
            *nested("vision_config", SIGLIP),
            *from_text(GEMMA3_TEXT),
            size("mm_tokens_per_image", 256),
            count("image_token_id", 262_144, aliases=("image_token_index",)),
            Check(name="mm_tokens_per_image", problem=_unpoolable),
            tie(default=True),
        ),
        text=_TEXT,
        parts=_gemma3,
        forward=forward.GEMMA3,
        tied={"lm_head.weight": "model.language_model.embed_tokens.weight"},
        notes=(TEXT_ALONE,),
        idle=("model.vision_tower.", "model.multi_modal_projector"),
    ),
)
