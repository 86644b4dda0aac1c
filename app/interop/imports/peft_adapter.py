"""PEFT's adapter_config.json as a request.

A method's settings have the names and defaults of PEFT's configuration, so that one reader reads most methods.
Source: peft 0.21, tuners/*/config.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args, get_origin

from app.interop.imports import lora_layers
from app.interop.imports.base_storage import on_its_base
from app.interop.imports.reference import model_or_none, reference
from app.interop.imports.target_patterns import targets
from app.interop.imports.without_effect import WITHOUT_EFFECT
from calculator.common.errors import refusal
from calculator.inputs.settings import declared
from calculator.methods import METHODS
from calculator.methods.adaption_prompt.method import FAMILIES
from calculator.methods.config_arguments import argument_names
from calculator.methods.not_modeled import NOT_MODELED

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.interop.imports.imported import Imported
    from app.interop.imports.keys import Keys
    from calculator.architecture.model import Model
    from calculator.common.names import MethodName
    from calculator.inputs.settings import Declared

#: Methods by PEFT's name. QLoRA's file is LoRA's: the base model's config.json states that it is stored in 4 bits.
#: Bone, which PEFT had until release 0.18, is MiSS under its older name: the same settings, parameters and step.
NAMES: dict[str, MethodName] = {
    **{cls.facts.peft_type: name for name, cls in METHODS.items() if cls.facts.peft_type and name != "qlora"},
    "BONE": "miss",
}

#: Methods by the class of PEFT's configuration; a script's LoraConfig has a reader of its own.
OF_CLASSES: dict[str, MethodName] = {
    cls.facts.config_class: name
    for name, cls in METHODS.items()
    if cls.facts.config_class and name not in ("lora", "qlora")
}


def imported(keys: Keys, given: Any) -> Imported:
    """Return the request of an adapter; `given` replaces the model that the file names."""
    model = reference(keys, "base_model_name_or_path", given)
    kind = keys.take("peft_type")
    if not isinstance(kind, str) or kind not in NAMES:
        reason = f": {NOT_MODELED[kind]}" if isinstance(kind, str) and kind in NOT_MODELED else ""
        raise refusal("content.peft_type", f"is not modeled{reason}. {', '.join(NAMES)} are", kind)
    return keys.close(
        "peft", {"model": model, **on_its_base(keys, method_of(keys, NAMES[kind], model_or_none(model)), model)}
    )


def method_of(keys: Keys, name: MethodName, model: Model | None) -> dict[str, Any]:
    """Return a method with the settings of PEFT's configuration."""
    cls: type = METHODS[name]
    settings = [setting for setting in declared(cls) if setting.name in argument_names(cls)]
    keys.forget(set(WITHOUT_EFFECT["peft"]).difference(setting.name for setting in settings))
    if keys.left.get("bias") == "none" and all(setting.name != "bias" for setting in settings):
        del keys.left["bias"]
    has_targets = any(setting.name == "target_modules" for setting in settings)
    pattern_settings = _settings_of_pattern(keys, name, model) if has_targets else {}
    method: dict[str, Any] = {
        "name": name,
        **{setting.name: _read(keys, setting) for setting in settings},
        **pattern_settings,
    }
    if name in CHECKS:
        CHECKS[name](keys, method)
    return method


def _settings_of_pattern(keys: Keys, name: MethodName, model: Model | None) -> dict[str, Any]:
    """Return the settings for the modules that a pattern matches: of single layers with LoRA alone."""
    if keys.left.get("target_modules") == "all-linear" or not isinstance(keys.left.get("target_modules"), str):
        return {}
    return targets(keys, "target_modules", model, in_layers=name in ("lora", "qlora"))


def _read(keys: Keys, setting: Declared) -> Any:
    """Return the value of a setting by its type, with PEFT's default."""
    name, default = setting.name, setting.default
    if name in READERS and lora_layers.is_loras(setting):
        return READERS[name](keys)
    if setting.by_name is not None:
        return lora_layers.typed(keys, setting, default)
    kinds = get_args(setting.type) or (setting.type,)
    if any(get_origin(kind) is tuple for kind in (setting.type, *kinds)):
        return keys.names(name)
    if setting.choices:
        choices = (*setting.choices, *((True, False) if bool in kinds else ()))
        return keys.choice(name, {choice: choice for choice in choices}, default, str(default))
    if bool in kinds:
        return keys.flag(name, default=default)
    if keys.left.get(name) is None:
        return default
    return keys.number(name, default) if float in kinds else keys.integer(name, default)


def _targets(keys: Keys) -> Any:
    """Return a list of names, or all-linear."""
    if keys.left.get("target_modules") == "all-linear":
        return keys.take("target_modules")
    return keys.names("target_modules")


def _feedforward(keys: Keys) -> list[str] | None:
    """Return a list of names. PEFT reads text as a pattern, and an empty list as no modules."""
    value = keys.left.get("feedforward_modules")
    if isinstance(value, str) or value == []:
        del keys.left["feedforward_modules"]
        keys.miss("feedforward_modules", value, "only names are modeled: PEFT's default for the family is used")
        return None
    return keys.names("feedforward_modules")


def _adapters(keys: Keys) -> list[str]:
    """Return X-LoRA's adapters in order. PEFT only finds those that are named by their numbers."""
    adapters = keys.take("adapters")
    if not isinstance(adapters, dict) or [*adapters] != [*map(str, range(len(adapters)))]:
        message = 'PEFT activates adapters by their numbers: give them as {"0": "folder", "1": "another folder"}'
        raise refusal("content.adapters", message, adapters)
    keys.miss("adapters", adapters, "r, lora_dropout and target_modules are in the adapters' own files")
    return [*map(str, adapters.values())]


def _check_prefix(keys: Keys, method: dict[str, Any]) -> None:
    """List a width of the projection other than PEFT's default."""
    width = keys.take("encoder_hidden_size")
    if method["prefix_projection"] and width is not None:
        keys.miss(
            "encoder_hidden_size", width, "is not modeled: the width of the keys and values, PEFT's default, is used"
        )


def _check_adalora(keys: Keys, method: dict[str, Any]) -> None:  # noqa: ARG001  as the other checks
    """Leave out LoRA's rank, which AdaLoRA ignores, and the ranks that a run kept."""
    keys.forget(("r", "rank_pattern"))


def _check_adaption_prompt(keys: Keys, method: dict[str, Any]) -> None:  # noqa: ARG001  as the other checks
    """List a module other than the attention of each layer, whose name the file has."""
    target = keys.take("target_modules")
    if target not in (None, *(name for name, _ in FAMILIES.values())):
        keys.miss("target_modules", target, "only the attention of each layer is modeled, which is used")


def _check_boft(keys: Keys, method: dict[str, Any]) -> None:  # noqa: ARG001  as the other checks
    """List a dropout of blocks, which is not modeled."""
    dropout = keys.take("boft_dropout", 0.0)
    if dropout:
        keys.miss("boft_dropout", dropout, "is not modeled: 0, PEFT's default, is used")


def _check_shira(keys: Keys, method: dict[str, Any]) -> None:  # noqa: ARG001  as the other checks
    """Leave out how SHiRA chooses its elements: every mask has the same number."""
    keys.forget(("mask_type",))


def _check_p_tuning(keys: Keys, method: dict[str, Any]) -> None:  # noqa: ARG001  as the other checks
    """List an encoder other than PEFT's default, an MLP, which has no such layers or dropout."""
    kind = keys.take("encoder_reparameterization_type", "MLP")
    if kind != "MLP":
        keys.miss("encoder_reparameterization_type", kind, "is not modeled: MLP, PEFT's default, is used")
    else:
        keys.forget(("encoder_num_layers", "encoder_dropout"))


def _token_indices(keys: Keys) -> Any:
    """Return the numbers of tokens."""
    value = keys.take("token_indices", [])
    if isinstance(value, list) and value and all(type(token) is int for token in value):
        return value
    keys.miss("token_indices", value, "is not a list of tokens: one token is used")
    return [0]


def _check_trainable_tokens(keys: Keys, method: dict[str, Any]) -> None:  # noqa: ARG001  as the other checks
    """List a table other than the word embeddings, whose name the file has."""
    targets = keys.take("target_modules")
    names = targets if isinstance(targets, list) else [targets]
    if targets is not None and any(str(name).rpartition(".")[2] not in lora_layers.TABLES for name in names):
        keys.miss("target_modules", targets, "only the word embeddings are modeled, which are used")


#: Settings that are not read by their type alone.
READERS: dict[str, Callable[[Keys], Any]] = {
    "target_modules": _targets,
    "feedforward_modules": _feedforward,
    "token_indices": _token_indices,
    "adapters": _adapters,
    **lora_layers.READERS,
}

#: Further keys that are read from a method's file.
CHECKS: dict[MethodName, Callable[[Keys, dict[str, Any]], None]] = {
    "adalora": _check_adalora,
    "adaption_prompt": _check_adaption_prompt,
    "boft": _check_boft,
    "prefix": _check_prefix,
    "p_tuning": _check_p_tuning,
    "shira": _check_shira,
    "trainable_tokens": _check_trainable_tokens,
}
