"""Combinations of LoRA's settings that PEFT refuses, and those that are not modeled."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from calculator.architecture.model import Stack
from calculator.common.errors import Problem
from calculator.methods.layer_kinds import full_name
from calculator.methods.low_rank import block_diagonal, initialization, layers, parameters, replication, tokens
from calculator.methods.low_rank.eva_config import components, rho_of
from calculator.methods.low_rank.targets import ROUTED, expert_problems
from calculator.methods.name_patterns import is_readable
from calculator.methods.targeted.default_targets import DEFAULT_PATTERNS
from calculator.methods.targeted.refusals import listed, names_one_layer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module, Parameter
    from calculator.methods.low_rank.method import LowRank

#: The initializations that read no weight. A parametrized module has its weight under another name.
_WITHOUT_WEIGHTS = (True, False, "gaussian")

_MOST_KEYS = 1_000


def problems(method: LowRank, model: Model, targets: Mapping[str, Module]) -> Iterator[Problem]:
    """Yield fused experts, DoRA and biases on an embedding, unreadable keys, and layers that do not exist."""
    yield from expert_problems(method, model)
    yield from _parameters(method, model)
    embedding = any(module.kind == "embedding" for module in targets.values())
    if method.use_dora and embedding:
        message = "DoRA on an embedding is not modeled: leave the embedding out, or use_dora false"
        yield Problem(loc="method.use_dora", msg=message, input=True)
    if method.lora_bias:
        yield from _bias(method, embedding=embedding)
    yield from _shapes(method, targets)
    yield from initialization.problems(method)
    yield from _singular_vectors(method, targets)
    yield from _keys(method)
    yield from replication.problems(method, method.layer_replication, model)
    yield from _layers(method, model, targets)
    yield from tokens.problems(method, model, targets)
    yield from block_diagonal.problems(method, method.use_bdlora, targets, partial(_rank, method))


def _rank(method: LowRank, path: str, module: Module) -> int:
    return layers.rank(method, full_name(path, module))


def _shapes(method: LowRank, targets: Mapping[str, Module]) -> Iterator[Problem]:
    """Yield initializations that fail for a kind of module.

    Source: LoraLayer.olora_init and loftq_init; Embedding.update_layer.
    """
    kind = method.init_lora_weights
    label = {"olora": "OLoRA", "loftq": "LoftQ"}.get(str(kind))
    if label is not None and any(module.kind == "conv1d" for module in targets.values()):
        message = f"PEFT's {label} gives Conv1D layers matrices of other shapes: use true, or pissa"
        yield Problem(loc="method.init_lora_weights", msg=message, input=kind)
    if kind == "loftq" and any(module.kind == "embedding" for module in targets.values()):
        message = "PEFT's LoftQ fails on an embedding: leave the embedding out, or use pissa"
        yield Problem(loc="method.init_lora_weights", msg=message, input=kind)


def _parameters(method: LowRank, model: Model) -> Iterator[Problem]:
    """Yield parameters that PEFT refuses (ParamWrapper.__init__), or that are not modeled."""
    names = method.target_parameters
    if not names:
        return
    yield from names_one_layer("method.target_parameters", names)
    targeted = [
        (path, module, target) for path, module in model.paths for target in parameters.targeted(names, path, module)
    ]
    fused = [(path, module, target) for path, module, target in targeted if is_modeled(path, module, target, model)]
    if not targeted or len(fused) < len(targeted) or model.model_type in _OWN_PRODUCTS:
        yield _not_fused(model, names)
    if any(method.is_saved(path) for path, _, _ in fused):
        message = "PEFT would copy experts that are adapted: leave them out of modules_to_save"
        yield Problem(loc="method.modules_to_save", msg=message, input=list(method.modules_to_save or ()))
    if method.quantizes_base:
        message = "over a quantized base is not modeled: leave it out, or use lora over a base in 16 bits"
        yield Problem(loc="method.target_parameters", msg=message, input=list(names))
    for name, refused in (("lora_dropout", 0.0), ("use_dora", False), ("lora_bias", False)):
        value = getattr(method, name)
        if value != refused:
            message = f"PEFT has none for target_parameters: use {str(refused).lower()}"
            yield Problem(loc=f"method.{name}", msg=message, input=value)
    if method.init_lora_weights not in _WITHOUT_WEIGHTS:
        message = "is not modeled with target_parameters: use true or gaussian"
        yield Problem(loc="method.init_lora_weights", msg=message, input=method.init_lora_weights)


def is_modeled(path: str, module: Module, parameter: Parameter, model: Model) -> bool:
    """Return whether a parameter is the fused weight of experts, or that of a router without other parameters."""
    if module.kind == "experts":
        return len(parameter.shape) == 3
    return model.model_type in ROUTED and path.endswith(".gate") and parameter.name == "weight"


#: Families whose experts are not grouped products.
_OWN_PRODUCTS = ("llama4_text", "llama4")


def _not_fused(model: Model, names: tuple[str, ...]) -> Problem:
    experts = [
        f"{path.rpartition('*.')[2]}.{parameter.name}" for path, module in model.paths for parameter in _fused(module)
    ]
    usual = tuple(dict.fromkeys(experts)) if model.model_type not in _OWN_PRODUCTS else ()
    way_out = f"name {' or '.join(usual)}" if usual else f"leave it out for {model.model_type}, and use target_modules"
    message = f"only the weights of fused experts are modeled: {way_out}"
    return Problem(loc="method.target_parameters", msg=message, input=list(names))


def _fused(module: Module) -> Iterator[Parameter]:
    if module.kind == "experts":
        yield from (parameter for parameter in module.parameters if len(parameter.shape) == 3)


def _singular_vectors(method: LowRank, targets: Mapping[str, Module]) -> Iterator[Problem]:
    """Yield more singular vectors than a weight has, or than an input has features.

    Source: LoraLayer.mica_init; IncrementalPCA.
    """
    for path, module in targets.items() if method.init_lora_weights == "eva" else ():
        count = components(_rank(method, path, module), rho_of(method.eva_config))
        if module.kind != "embedding" and count > module.in_features:
            message = (
                f"EVA looks for {count:,} singular vectors of {module.in_features:,} features of {path}'s input: use"
            )
            yield Problem(loc="method.r", msg=f"{message} a smaller rank, or rho", input=method.r)
            return
    for path, module in targets.items() if method.init_lora_weights == "mica" else ():
        most = min(module.in_features, module.out_features)
        if _rank(method, path, module) > most:
            message = f"MiCA takes at most {most:,} singular vectors of {path}: use a smaller rank"
            yield Problem(loc="method.r", msg=message, input=method.r)


def _bias(method: LowRank, *, embedding: bool) -> Iterator[Problem]:
    """Yield settings that PEFT refuses with a bias of B (LoraConfig.__post_init__; Embedding.update_layer)."""
    if method.use_dora:
        yield Problem(loc="method.lora_bias", msg="PEFT has no bias of B with DoRA: use false", input=True)
    if embedding:
        message = "PEFT adds no bias of B to an embedding: use false, or leave the embedding out"
        yield Problem(loc="method.lora_bias", msg=message, input=True)
    if isinstance(method.init_lora_weights, str):
        message = f"PEFT initializes a bias of B with init_lora_weights true or false, not {method.init_lora_weights}"
        yield Problem(loc="method.init_lora_weights", msg=message, input=method.init_lora_weights)


def _keys(method: LowRank) -> Iterator[Problem]:
    if len(method.rank_pattern) > _MOST_KEYS:
        message = f"has {len(method.rank_pattern):,} names: at most {_MOST_KEYS:,} are read"
        yield Problem(loc="method.rank_pattern", msg=message, input=len(method.rank_pattern))
        return
    for key in method.rank_pattern:
        if not is_readable(key):
            message = f"{key} is not read: use a name such as q_proj, or an expression with at most one group"
            yield Problem(loc="method.rank_pattern", msg=message, input=key)


def _layers(method: LowRank, model: Model, targets: Mapping[str, Module]) -> Iterator[Problem]:
    """Yield choices of layers that PEFT refuses (LoraConfig.__post_init__), or that leave no module."""
    chosen, pattern = method.layers_to_transform, method.layers_pattern
    if chosen is None:
        if pattern is not None:
            message = "names layers, but layers_to_transform chooses none: set that too, or leave this out"
            yield Problem(loc="method.layers_pattern", msg=message, input=list(pattern))
        return
    if isinstance(method.target_modules, str):
        message = f"PEFT chooses layers only where target_modules lists names, not with {method.target_modules}"
        yield Problem(loc="method.layers_to_transform", msg=message, input=list(chosen))
        return
    if method.target_modules is None and model.model_type in DEFAULT_PATTERNS:
        message = f"PEFT's default target_modules for {model.model_type} is a pattern, with which it chooses no layers"
        yield Problem(loc="method.layers_to_transform", msg=f"{message}: leave this out", input=list(chosen))
        return
    odd = next((name for name in pattern or () if not re.fullmatch(r"\w+(\.\w+)*", name)), None)
    if odd is not None:
        yield Problem(loc="method.layers_pattern", msg=f"{odd} is not a name such as layers", input=odd)
    elif targets and not any(layers.is_transformed(method, name) for name in _full_names(model, targets)):
        counts = " or ".join(f"{len(stack.layers)} in {stack.name}" for stack in model.stacks)
        message = f"no adapted module is in these layers: there are {counts}, numbered from 0"
        yield Problem(loc="method.layers_to_transform", msg=message, input=listed(tuple(map(str, chosen))))


def _full_names(model: Model, targets: Mapping[str, Module]) -> Iterator[str]:
    """Yield the names of modules outside the layers, and of those in every layer that has them."""
    yield from (path for path in targets if "*" not in path)
    for part in model.parts:
        if isinstance(part, Stack):
            for index, layer in enumerate(part.layers):
                names = (module.name for module in layer.modules if f"{part.name}.*.{module.name}" in targets)
                yield from (f"{part.name}.{index}.{name}" for name in names)
