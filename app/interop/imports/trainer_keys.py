"""Keys of TrainingArguments that several tools pass on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.interop.imports.other_runs import LIGER_EFFECT, TRANSFORMERS_LAYERS
from calculator.resident.optimizers import OF_TRAINERS, OPTIMIZERS
from calculator.trainers import liger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.interop.imports.keys import Keys
    from calculator.architecture.model import Model


def empty_cache_settings(keys: Keys) -> dict[str, Any]:
    """Return the steps between two calls of empty_cache, if the file sets them."""
    steps = keys.integer("torch_empty_cache_steps", 0)
    return {"torch_empty_cache_steps": steps} if steps > 0 else {}


def optimizer(keys: Keys, key: str, default: str) -> dict[str, Any]:
    """Return the optimizer, and of one that projects gradients its modules and options."""
    name = keys.choice(key, OF_TRAINERS, default, default)
    if not OPTIMIZERS[name].projects:
        return {"optimizer": name}
    settings: dict[str, Any] = {"optimizer": name}
    named, given = keys.take("optim_target_modules"), keys.take("optim_args")
    if isinstance(named, str):
        named = "all-linear" if named.replace("_", "-") == "all-linear" else [named]
    if named is not None:
        settings["optim_target_modules"] = named
    if isinstance(given, dict):
        given = written(given)
    return settings if given is None else {**settings, "optim_args": str(given)}


def written(options: Mapping[str, Any]) -> str:
    """Return options as `TrainingArguments.optim_args` writes them."""
    return ", ".join(f"{name}={value}" for name, value in options.items())


def with_liger(keys: Keys, settings: str, model: Model | None) -> dict[str, Any]:
    """Return the setting of Liger's kernels, all of them; without it, with a warning, where they are not modeled."""
    if model is not None and model.model_type in liger.NOT_MODELED:
        keys.warn(settings, LIGER_EFFECT, TRANSFORMERS_LAYERS)
        return {}
    return {"use_liger_kernel": True}


def unpadded(keys: Keys, key: str, training: dict[str, Any]) -> dict[str, Any]:
    """Return the training without padding where FlashAttention 2 makes the memory depend on how much there is."""
    if not training["padding"] or training["attention"] != "flash_attention_2":
        return training
    why = "flash_attention_2 removes padding: the figures are for sequences that are all full"
    keys.miss(key, keys.given(key), why)
    return {**training, "padding": False}
