"""Gemma 3 with its vision tower: SigLIP, a projection, and the text model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Check, Config, shown
from calculator.architecture.model import TEXT_ALONE, stack
from calculator.architecture.module import Buffer, bare, embedding, linear, norm
from calculator.families.blocks import alike, kinds_by_attention
from calculator.families.family import Family, Parts
from calculator.families.fields import DIVISIBLE, MOST_LAYERS, activation, count, dropouts, flag, number, size, tie
from calculator.families.gemma.weights import GEMMA3_TEXT, gemma3_layer
from calculator.families.gemma3 import forward
from calculator.families.nested import from_text, nested, with_defaults
from calculator.families.rope import frequencies_per_type

if TYPE_CHECKING:
    from calculator.architecture.config import Entry
    from calculator.architecture.module import Module
    from calculator.families.blocks import Owned

#: Defaults of the class. A file leaves such fields out of `text_config`, which is saved as the difference from them.
#: Source: transformers/models/gemma3/configuration_gemma3.py, Gemma3TextConfig.
_TEXT_DEFAULTS = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
}

_TEXT = with_defaults(GEMMA3_TEXT, _TEXT_DEFAULTS)

#: Source: transformers/models/siglip/configuration_siglip.py, SiglipVisionConfig.
_VISION: tuple[Entry, ...] = (
    size("hidden_size", 768),
    size("intermediate_size", 3072),
    size("num_hidden_layers", 12, maximum=MOST_LAYERS),
    size("num_attention_heads", 12),
    DIVISIBLE,
    size("num_channels", 3),
    size("image_size", 224),
    size("patch_size", 16),
    activation("gelu_pytorch_tanh"),
    number("layer_norm_eps", 1e-6),
    *dropouts("attention_dropout"),
    flag("vision_use_head", True),
)


def _unpoolable(config: Config) -> str | None:
    vision = config["vision_config"]
    side, wanted = int(vision["image_size"]) // int(vision["patch_size"]), int(config["mm_tokens_per_image"] ** 0.5)
    return (
        None if side >= wanted else f"{shown(config['mm_tokens_per_image'])} tokens are more than the image's patches"
    )


def _vision_mlp(config: Config, name: str) -> tuple[Module, ...]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    return (linear(f"{name}.fc1", hidden, inner, bias=True), linear(f"{name}.fc2", inner, hidden, bias=True))


def _vision_layer(config: Config) -> Owned:
    hidden = config["hidden_size"]
    return (
        norm("layer_norm1", hidden, bias=True),
        *(linear(f"self_attn.{each}_proj", hidden, hidden, bias=True) for each in ("k", "v", "q", "out")),
        norm("layer_norm2", hidden, bias=True),
        *_vision_mlp(config, "mlp"),
    )


def _pooling_head(config: Config, path: str) -> tuple[Module, ...]:
    hidden = config["hidden_size"]
    return (
        bare(path, "other", probe=(1, 1, hidden)),
        bare(f"{path}.attention", "other", in_proj_weight=(3 * hidden, hidden), in_proj_bias=(3 * hidden,)),
        linear(f"{path}.attention.out_proj", hidden, hidden, bias=True, quantizable=False),
        norm(f"{path}.layernorm", hidden, bias=True),
        *_vision_mlp(config, f"{path}.mlp"),
    )


def _vision_tower(config: Config, path: str) -> Parts:
    hidden, patch, channels = config["hidden_size"], config["patch_size"], config["num_channels"]
    patches = (int(config["image_size"]) // int(patch)) ** 2
    return (
        bare(f"{path}.embeddings.patch_embedding", "other", weight=(hidden, channels, patch, patch), bias=(hidden,)),
        embedding(f"{path}.embeddings.position_embedding", patches, hidden),
        Buffer(name=f"{path}.embeddings.position_ids", shape=(1, patches), dtype="int64"),
        stack(f"{path}.encoder.layers", alike(config), lambda _kind: _vision_layer(config)),
        norm(f"{path}.post_layernorm", hidden, bias=True),
        *(_pooling_head(config, f"{path}.head") if config["vision_use_head"] else ()),
    )


def _gemma3(config: Config) -> Parts:
    text, vision = config["text_config"], config["vision_config"]
    vocabulary, hidden, seen = text["vocab_size"], text["hidden_size"], vision["hidden_size"]
    model = "model.language_model"
    return (
        *_vision_tower(vision, "model.vision_tower"),
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
            *nested("vision_config", _VISION),
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
