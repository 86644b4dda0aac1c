"""The default config of each model type, with four layers that cover its kinds."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

from transformers import CONFIG_MAPPING

from calculator import catalogue

#: How many layers each stack has.
LAYERS = 4

#: The fields that count layers, as the families spell them.
COUNTS = (
    "decoder_layers",
    "depth",
    "encoder_layers",
    "n_layer",
    "n_layers",
    "num_decoder_layers",
    "num_hidden_layers",
    "num_layers",
)

#: Fields that a published config.json has, and the default of a config class does not.
PUBLISHED = {"decoder_start_token_id": 0, "pad_token_id": 0}

#: Fields that a type's published files set, and without which its defaults build no model or no step.
VALID: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "blenderbot": {"encoder_layers": LAYERS},
    "dbrx": {"attn_config": {"rope_theta": 500000.0, "kv_n_heads": 8, "clip_qkv": 8.0}},
    "dots1": {
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
    },
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba", "mamba"]},
    "hunyuan_v1_moe": {"head_dim": 128},
}


def short_config(model_type: str) -> dict[str, Any]:
    """Return a `config.json` of a model type: its class's defaults, with few layers."""
    config = default_config(model_type)
    shorten(config)
    return config | VALID.get(model_type, {})


def default_config(model_type: str) -> dict[str, Any]:
    """Return a `config.json` of a model type: its class's defaults."""
    config: dict[str, Any] = json.loads(CONFIG_MAPPING[model_type]().to_json_string(use_diff=False))
    for unwanted in ("transformers_version", "dtype", "architectures"):
        config.pop(unwanted, None)
    published = {name: value for name, value in PUBLISHED.items() if config.get(name) is None}
    return {**config, **published, "model_type": model_type}


def catalogued_config(model_type: str) -> dict[str, Any]:
    """Return the `config.json` of the catalogue's first model of a type, with few layers.

    Raises:
        ValueError: if the catalogue has none.
    """
    config = next((deepcopy(model.config) for model in catalogue.models() if model.model_type == model_type), None)
    if config is None:
        raise ValueError(f"the catalogue has no model of the type {model_type}")
    shorten(config)
    return config


def shorten(config: dict[str, Any]) -> None:
    """Leave at most four layers in a config and the configs inside it, in place."""
    for name, value in list(config.items()):
        if isinstance(value, dict):
            shorten(value)
        elif name in COUNTS and isinstance(value, int) and value > LAYERS:
            _keep_some(config, value)
            config[name] = LAYERS
    if config.get("per_layer_config"):
        config["per_layer_config"] = None


def _keep_some(config: dict[str, Any], count: int) -> None:
    """Shorten the lists that have a value for each layer: of every kind of layer, one stays at least."""
    lists = {name: value for name, value in config.items() if isinstance(value, list) and len(value) == count}
    layers = list(zip(*lists.values(), strict=True)) or [()] * count
    kinds = [str(layer) for layer in layers]
    first = [kinds.index(kind) for kind in dict.fromkeys(kinds)][:LAYERS]
    chosen = sorted([*first, *(layer for layer in range(count) if layer not in first)][:LAYERS])
    for name, value in lists.items():
        config[name] = [value[layer] for layer in chosen]
