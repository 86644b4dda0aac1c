"""LoRA's settings of single modules and layers, as PEFT's LoraConfig has them.

Source: peft 0.21, tuners/lora/config.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.inputs.settings import declared, mismatch
from calculator.methods import LoRA
from calculator.methods.low_rank.eva_config import SETTINGS as OF_EVA
from calculator.methods.low_rank.initialization import INSTEAD

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.interop.imports.keys import Keys
    from calculator.inputs.settings import Declared

#: The names of word embeddings in the families.
TABLES = ("embed_tokens", "wte", "embed_in", "word_embeddings")

_SETTINGS = {setting.name: setting for setting in declared(LoRA)}


def rank_pattern(keys: Keys) -> Any:
    """Return the ranks of modules; an empty object means none."""
    return _typed(keys, "rank_pattern", {})


def alpha_pattern(keys: Keys) -> Any:
    """Return the alphas of modules."""
    return _typed(keys, "alpha_pattern", {})


def layers_to_transform(keys: Keys) -> Any:
    """Return the numbers of layers: a file may have one number alone, or an empty list for all layers."""
    value = keys.left.get("layers_to_transform")
    if isinstance(value, int) and not isinstance(value, bool):
        keys.left["layers_to_transform"] = [value]
    return _typed(keys, "layers_to_transform", None)


def layers_pattern(keys: Keys) -> Any:
    """Return the names of the list of layers: a file may have one alone, or an empty list for any."""
    value = keys.left.get("layers_pattern")
    if isinstance(value, str) and value:
        keys.left["layers_pattern"] = [value]
    return _typed(keys, "layers_pattern", None)


def layer_replication(keys: Keys) -> Any:
    """Return the ranges of layers that run."""
    return _typed(keys, "layer_replication", None)


def init_lora_weights(keys: Keys) -> Any:
    """Return how A and B begin; the number of PiSSA's iterations changes no memory."""
    value = keys.left.get("init_lora_weights")
    if value in INSTEAD:
        keys.left["init_lora_weights"] = "pissa_niter_16"
    return _typed(keys, "init_lora_weights", True)


def trainable_token_indices(keys: Keys) -> Any:
    """Return the numbers of tokens: a file may have them by the name of the word embeddings."""
    value = keys.left.get("trainable_token_indices")
    if isinstance(value, dict) and len(value) == 1:
        (name, tokens) = next(iter(value.items()))
        if name.rpartition(".")[2] in TABLES:
            keys.left["trainable_token_indices"] = tokens
    return _typed(keys, "trainable_token_indices", None)


def eva_config(keys: Keys) -> Any:
    """Return the settings of EVA that change memory."""
    value = keys.left.get("eva_config")
    if isinstance(value, dict):
        keys.left["eva_config"] = {name: value[name] for name in OF_EVA if name in value}
    return _typed(keys, "eva_config", None)


def use_bdlora(keys: Keys) -> Any:
    """Return the settings of block-diagonal matrices."""
    return _typed(keys, "use_bdlora", None)


def target_parameters(keys: Keys) -> Any:
    """Return the ends of parameters' names."""
    return _typed(keys, "target_parameters", None)


def is_loras(setting: Declared) -> bool:
    """Return whether a setting of a method is LoRA's, and not another one of the same name."""
    return setting.name not in _SETTINGS or setting.type == _SETTINGS[setting.name].type


def _typed(keys: Keys, name: str, default: Any) -> Any:
    return typed(keys, _SETTINGS[name], default)


def typed(keys: Keys, setting: Declared, default: Any) -> Any:
    """Return the value of a setting as the file has it, or a default where it has none of its type."""
    name = setting.name
    value = keys.take(name)
    if value is None or value in ([], ""):
        return default
    problem = mismatch(setting.type, value)
    if problem:
        keys.miss(name, value, f"{problem}: PEFT's default is used")
        return default
    return value


#: The readers of these settings, by the name of PEFT's argument.
READERS: dict[str, Callable[[Keys], Any]] = {
    "rank_pattern": rank_pattern,
    "alpha_pattern": alpha_pattern,
    "layers_to_transform": layers_to_transform,
    "layers_pattern": layers_pattern,
    "layer_replication": layer_replication,
    "init_lora_weights": init_lora_weights,
    "trainable_token_indices": trainable_token_indices,
    "eva_config": eva_config,
    "use_bdlora": use_bdlora,
    "target_parameters": target_parameters,
}


def lora_layers(keys: Keys) -> dict[str, Any]:
    """Return those settings that are not PEFT's defaults, and whether B has a bias."""
    settings = {name: read(keys) for name, read in READERS.items()} | {"lora_bias": keys.flag("lora_bias")}
    return {name: value for name, value in settings.items() if value != _SETTINGS[name].default}
