"""The modules that PEFT adapts, matched by name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from calculator.common.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.methods.targeted.method import TargetedMethod

#: By model_type, linear layers whose class returns a tuple. PEFT's layers can't adapt them. Source:
#: transformers/models/phimoe/modeling_phimoe.py, PhimoeTopKRouter; llama4/modeling_llama4.py, Llama4Router.
ROUTERS: dict[str, str] = {"jamba": "router", "llama4": "router", "llama4_text": "router", "phimoe": "router"}

#: By model_type, the ends of the names of linear layers that are inside a module that PEFT can't adapt. Source:
#: transformers/models/gemma4/modeling_gemma4.py, Gemma4ClippableLinear.
WRAPPED: dict[str, str] = {"gemma4": ".linear"}

#: The Mamba models, the methods, and the names of modules that PEFT refuses to adapt. Source: peft 0.21,
#: peft/tuners/tuners_utils.py, _check_lora_target_modules_mamba.
_MAMBA_MODELS = ("falcon_h1", "mamba2", "nemotron_h")
_MAMBA_METHODS = ("LORA", "ADALORA", "RANDLORA", "XLORA")
_MAMBA_NAMES = ("out_proj", "conv1d")

#: The linear layers whose weight the model's code multiplies with itself, unless they are quantized. Source:
#: transformers/models/jamba/modeling_jamba.py, JambaMambaMixer.
UNCALLED: dict[str, tuple[str, ...]] = {"jamba": ("dt_proj",)}

#: The names of attention modules in the families: self_attn, attention, SelfAttention, attn, ...
_ATTENTION = re.compile("attn|attention", re.IGNORECASE)
_PROJECTION = re.compile("[qkvo]_proj")


def target_names(method: TargetedMethod, model: Model) -> tuple[str, ...]:
    """Return the names that a module's path is compared with, which are empty for `all-linear`.

    Raises:
        PlanError: if the family has no default.
    """
    if method.target_modules == "all-linear":
        return ()
    if method.target_modules is not None:
        return method.target_modules
    defaults = method.facts.default_targets
    if not method.needs_modules and not method.has_default(model):
        return ()
    if model.model_type not in defaults:
        message = f"PEFT has no default for {model.model_type}: {way_out(method, model)}"
        raise refusal("method.target_modules", message, None)
    return defaults[model.model_type]


def attention_projections(model: Model) -> tuple[str, ...]:
    """Return the names of the linear layers in a model's attention to text, in order."""
    paths = [path.split(".") for path, module in model.running if module.kind in ("linear", "conv1d")]
    named = [parts[-1] for parts in paths if any(_ATTENTION.search(part) for part in parts[:-1])]
    named = named or [parts[-1] for parts in paths if _PROJECTION.fullmatch(parts[-1])]
    return tuple(dict.fromkeys(named))


def mamba_projections(model: Model) -> tuple[str, ...]:
    """Return the names of the linear layers in Mamba layers that every method of PEFT adapts."""
    if model.model_type not in _MAMBA_MODELS:
        return ()
    names = (path.rpartition(".")[2] for path, module in model.running if module.kind == "linear")
    return tuple(dict.fromkeys(name for name in names if name not in (*_MAMBA_NAMES, model.head)))


def names_of_mamba(method: TargetedMethod, model: Model) -> tuple[str, ...]:
    """Return the names of modules that PEFT refuses in a Mamba model."""
    refused = model.model_type in _MAMBA_MODELS and method.facts.peft_type in _MAMBA_METHODS
    return _MAMBA_NAMES if refused else ()


def uncalled(method: TargetedMethod, model: Model) -> tuple[str, ...]:
    """Return the names of layers that the model does not call, so that what a method adds to them is not used."""
    return () if method.quantizes_base else UNCALLED.get(model.model_type, ())


def wrapped(names: Iterable[str], model: Model) -> tuple[str, ...]:
    """Return the modules with one of the names that PEFT can't adapt. It can only adapt the linear layer inside."""
    end = WRAPPED.get(model.model_type)
    if end is None:
        return ()
    outer = (path.removesuffix(end) for path, _ in model.paths if path.endswith(end))
    return tuple(path for path in outer if is_named(path, tuple(names)))


def proposed(method: TargetedMethod, model: Model) -> str:
    """Return the names in this model that a refusal proposes, and what they are."""
    names = method.usual_targets(model)
    return f"name {method.usual(model)} ({', '.join(names)})" if names else "use another method"


def way_out(method: TargetedMethod, model: Model) -> str:
    """Return the targets that a refusal proposes: names in this model, and `all-linear` if that is accepted."""
    if wrapped(method.usual_targets(model), model):
        return 'use "all-linear"'
    named = proposed(method, model)
    return f'{named}, or use "all-linear"' if method.adapts_linear and not method.refused_names(model) else named


def is_named(path: str, names: tuple[str, ...]) -> bool:
    """Return whether a module's path is one of the names or ends in one (peft.tuners.tuners_utils)."""
    return any(path == name or path.endswith(f".{name}") for name in names)


def unused_names(names: str | tuple[str, ...] | None, model: Model) -> tuple[str, ...]:
    """Return the names without a module, which PEFT ignores if another name has one."""
    if not isinstance(names, tuple):
        return ()
    return tuple(name for name in names if not any(is_named(path, (name,)) for path, _ in model.paths))


def is_requested(path: str, module: Module, method: TargetedMethod, model: Model) -> bool:
    """Return whether `target_modules` matches a module and `exclude_modules` does not.

    `modules_to_save` does not matter.
    """
    if method.exclude_modules and is_named(path, method.exclude_modules):
        return False
    if method.target_modules == "all-linear":
        return module.kind in ("linear", "conv1d") and path != model.head
    return is_named(path, target_names(method, model))
