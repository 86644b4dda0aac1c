"""Idefics 3 and SmolVLM: an encoder as in SigLIP, a connector that merges patches, and the text model of Llama."""

from __future__ import annotations

from dataclasses import replace

from calculator.architecture.config import Check, Config, Entry
from calculator.architecture.dimension import Dim
from calculator.architecture.model import TEXT_ALONE, stack
from calculator.architecture.module import embedding, linear, norm
from calculator.common.errors import shown
from calculator.families.blocks import uniform_layers
from calculator.families.family import Family, Parts
from calculator.families.fields import DIVISIBLE, MOST_LAYERS, activation, count, dropouts, flag, number, size, tie
from calculator.families.idefics3 import forward
from calculator.families.idefics3.forward import CONNECTOR, TEXT_MODEL, TOWER
from calculator.families.image_encoder import idefics3_encoder, patches_of
from calculator.families.llama.weights import LLAMA, llama_layer
from calculator.families.nested import from_text, nested, with_defaults
from calculator.families.rope import frequencies

#: Source: configuration_llama.py.
_TEXT = with_defaults(
    LLAMA,
    {
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
)

#: Source: configuration_idefics3.py and configuration_smolvlm.py.
_VISION: tuple[Entry, ...] = (
    size("hidden_size", 1152),
    size("intermediate_size", 3072),
    size("num_hidden_layers", 12, maximum=MOST_LAYERS),
    size("num_attention_heads", 16),
    DIVISIBLE,
    size("num_channels", 3),
    size("image_size", 224),
    size("patch_size", 32),
    activation("gelu_pytorch_tanh"),
    number("layer_norm_eps", 1e-6),
    *dropouts("attention_dropout"),
)


def _not_whole(config: Config) -> str | None:
    """Return an error if the patches can't be merged into whole tokens."""
    side, factor = int(patches_of(config["vision_config"]) ** 0.5), config["scale_factor"]
    return f"{shown(factor)} does not divide the {side:,} patches of a side" if side % factor else None


def _parts(config: Config) -> Parts:
    text, vision = config["text_config"], config["vision_config"]
    shuffled = Dim(int(vision["hidden_size"]) * int(config["scale_factor"]) ** 2, "hidden_size · scale_factor²")
    return (
        *idefics3_encoder(vision, TOWER),
        linear(f"{CONNECTOR}.modality_projection.proj", shuffled, text["hidden_size"]),
        embedding(f"{TEXT_MODEL}.embed_tokens", text["vocab_size"], text["hidden_size"]),
        stack(f"{TEXT_MODEL}.layers", uniform_layers(text), lambda _kind: llama_layer(text)),
        norm(f"{TEXT_MODEL}.norm", text["hidden_size"]),
        *frequencies(f"{TEXT_MODEL}.rotary_emb", text["rotary_dim"]),
        linear("lm_head", text["hidden_size"], text["vocab_size"]),
    )


_IDEFICS3 = Family(
    model_type="idefics3",
    auto_class="image-text-to-text",
    entries=(
        *nested("text_config", _TEXT),
        *nested("vision_config", _VISION),
        *from_text(_TEXT),
        flag("use_cache", True),
        size("scale_factor", 2),
        Check(name="scale_factor", problem=_not_whole),
        count("image_token_id", 128_257),
        tie(default=False),
    ),
    text=_TEXT,
    parts=_parts,
    forward=forward.IDEFICS3,
    tied={"lm_head.weight": f"{TEXT_MODEL}.embed_tokens.weight"},
    notes=(TEXT_ALONE,),
    idle=(f"{TOWER}.", CONNECTOR),
)

FAMILIES = (_IDEFICS3, replace(_IDEFICS3, model_type="smolvlm"))
