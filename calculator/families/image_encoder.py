"""The weights of image encoders as in SigLIP and CLIP: patches with learned positions, and layers with a plain MLP."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.model import stack
from calculator.architecture.module import Buffer, bare, embedding, linear, norm
from calculator.families.blocks import uniform_layers
from calculator.families.fields import DIVISIBLE, MOST_LAYERS, activation, dropouts, flag, number, size

if TYPE_CHECKING:
    from calculator.architecture.config import Config, Entry
    from calculator.architecture.module import Module
    from calculator.families.family import Parts

#: Source: transformers/models/siglip/configuration_siglip.py, SiglipVisionConfig.
SIGLIP: tuple[Entry, ...] = (
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


#: Source: transformers/models/clip/configuration_clip.py, CLIPVisionConfig.
CLIP: tuple[Entry, ...] = (
    size("hidden_size", 768),
    size("intermediate_size", 3072),
    size("num_hidden_layers", 12, maximum=MOST_LAYERS),
    size("num_attention_heads", 12),
    DIVISIBLE,
    size("num_channels", 3),
    size("image_size", 224),
    size("patch_size", 32),
    activation("quick_gelu"),
    number("layer_norm_eps", 1e-5),
    *dropouts("attention_dropout", nullable=True),
)


def patches_of(config: Config) -> int:
    """Return the number of patches of an image in the encoder's own size."""
    return (int(config["image_size"]) // int(config["patch_size"])) ** 2


def _mlp(config: Config, name: str) -> tuple[Module, ...]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    return (linear(f"{name}.fc1", hidden, inner, bias=True), linear(f"{name}.fc2", inner, hidden, bias=True))


def _attention(config: Config) -> tuple[Module, ...]:
    hidden = config["hidden_size"]
    return tuple(linear(f"self_attn.{name}_proj", hidden, hidden, bias=True) for name in ("k", "v", "q", "out"))


def _layer(config: Config) -> tuple[Module, ...]:
    hidden = config["hidden_size"]
    return (
        norm("layer_norm1", hidden, bias=True),
        *_attention(config),
        norm("layer_norm2", hidden, bias=True),
        *_mlp(config, "mlp"),
    )


def _layer_norms_last(config: Config) -> tuple[Module, ...]:
    """Return a layer whose class creates each norm after the sublayer that it precedes."""
    hidden = config["hidden_size"]
    return (
        *_attention(config),
        norm("layer_norm1", hidden, bias=True),
        *_mlp(config, "mlp"),
        norm("layer_norm2", hidden, bias=True),
    )


def _pooling_head(config: Config, path: str) -> tuple[Module, ...]:
    hidden = config["hidden_size"]
    return (
        bare(path, "other", probe=(1, 1, hidden)),
        bare(f"{path}.attention", "other", in_proj_weight=(3 * hidden, hidden), in_proj_bias=(3 * hidden,)),
        linear(f"{path}.attention.out_proj", hidden, hidden, bias=True, quantizable=False),
        norm(f"{path}.layernorm", hidden, bias=True),
        *_mlp(config, f"{path}.mlp"),
    )


def siglip(config: Config, path: str) -> Parts:
    """Return the modules of SiglipVisionModel."""
    hidden, patch, channels, patches = (
        config["hidden_size"],
        config["patch_size"],
        config["num_channels"],
        patches_of(config),
    )
    return (
        bare(f"{path}.embeddings.patch_embedding", "other", weight=(hidden, channels, patch, patch), bias=(hidden,)),
        embedding(f"{path}.embeddings.position_embedding", patches, hidden),
        Buffer(name=f"{path}.embeddings.position_ids", shape=(1, patches), dtype="int64"),
        stack(f"{path}.encoder.layers", uniform_layers(config), lambda _kind: _layer(config)),
        norm(f"{path}.post_layernorm", hidden, bias=True),
        *(_pooling_head(config, f"{path}.head") if config["vision_use_head"] else ()),
    )


def idefics3_encoder(config: Config, path: str) -> Parts:
    """Return the modules of Idefics3VisionTransformer or SmolVLMVisionTransformer.

    Positions are computed for each image.
    """
    hidden, patch, channels = config["hidden_size"], config["patch_size"], config["num_channels"]
    return (
        bare(f"{path}.embeddings.patch_embedding", "other", weight=(hidden, channels, patch, patch), bias=(hidden,)),
        embedding(f"{path}.embeddings.position_embedding", patches_of(config), hidden),
        stack(f"{path}.encoder.layers", uniform_layers(config), lambda _kind: _layer_norms_last(config)),
        norm(f"{path}.post_layernorm", hidden, bias=True),
    )


def clip(config: Config, path: str, used: int) -> Parts:
    """Return the modules of CLIPVisionModel. The layers after the first `used` ones are modules outside the stack."""
    hidden, patch, channels = config["hidden_size"], config["patch_size"], config["num_channels"]
    positions, layers = patches_of(config) + 1, f"{path}.encoder.layers"
    return (
        bare(f"{path}.embeddings", "other", class_embedding=(hidden,)),
        bare(f"{path}.embeddings.patch_embedding", "other", weight=(hidden, channels, patch, patch)),
        embedding(f"{path}.embeddings.position_embedding", positions, hidden),
        Buffer(name=f"{path}.embeddings.position_ids", shape=(1, positions), dtype="int64"),
        norm(f"{path}.pre_layrnorm", hidden, bias=True),
        stack(layers, uniform_layers(config)[:used], lambda _kind: _layer_norms_last(config)),
        *(module for index in unused_layers(config, used) for module in _prefixed(config, f"{layers}.{index}")),
        norm(f"{path}.post_layernorm", hidden, bias=True),
    )


def unused_layers(config: Config, used: int) -> range:
    """Return the indices of the layers after the last one that is used."""
    return range(used, int(config["num_hidden_layers"]))


def _prefixed(config: Config, path: str) -> tuple[Module, ...]:
    return tuple(replace(module, name=f"{path}.{module.name}") for module in _layer_norms_last(config))
