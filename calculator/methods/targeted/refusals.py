"""Targets that PEFT refuses, and those that are not modeled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import PlanError, Problem
from calculator.methods.targeted import modules_to_save
from calculator.methods.targeted.matching import (
    ROUTERS,
    is_named,
    is_requested,
    names_of_mamba,
    proposed,
    target_names,
    uncalled,
    way_out,
    wrapped,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.methods.targeted.method import TargetedMethod


#: The number of dimensions of a linear layer's weight. A convolution's weight has more.
_MATRIX = 2

#: The number of accepted methods that a model caches.
MAX_ACCEPTED = 64


def check(method: TargetedMethod, model: Model) -> None:
    """Refuse targets that PEFT refuses, and those that are not modeled.

    Raises:
        PlanError: with every reason.
    """
    if method in model.accepted:
        return
    names = target_names(method, model)
    paths = dict(model.paths)
    requested = {path: module for path, module in paths.items() if is_requested(path, module, method, model)}
    problems = [*_numbered(method), *_wrapped(method, model), *_idle(method, model, requested)]
    problems += modules_to_save.problems(method.modules_to_save, model, [*requested])
    problems += [*_copied(method, model, requested), *_head(method, model, requested)]
    targets = {path: module for path, module in requested.items() if not method.is_saved(path)}
    adaptable = {path: module for path, module in targets.items() if module.kind in method.adaptable}
    method_problems = [*method.own_problems(model, adaptable)]
    if not targets and not problems and not method_problems and method.needs_modules:
        problems.append(_unmatched(method, model, names))
    problems += [*method_problems, *_mamba_problems(method, model, targets), *_uncalled(method, model, targets)]
    problems += [*_not_adaptable(method, targets), *_routers(method, model, targets)]
    if problems:
        raise PlanError(*problems)
    if len(model.accepted) >= MAX_ACCEPTED:
        model.accepted.clear()
    model.accepted.add(method)


def _unmatched(method: TargetedMethod, model: Model, names: tuple[str, ...]) -> Problem:
    """Return names that no module has."""
    last_names = {path.rpartition(".")[2] for path, module in model.paths if module.kind in method.adaptable}
    adaptable = ", ".join(sorted(last_names.difference(method.refused_names(model))))
    message = f"no module is named {' or '.join(names)}; those that can be adapted are {adaptable}"
    if method.exclude_modules:
        message = f"exclude_modules leaves no module to adapt; those that can be adapted are {adaptable}"
    return Problem(loc="method.target_modules", msg=message, input=listed(method.target_modules))


def _not_adaptable(method: TargetedMethod, targets: dict[str, Module]) -> Iterator[Problem]:
    """Yield targets that PEFT can't adapt, and convolutions, which only some methods can."""
    adaptable = [path for path, module in targets.items() if module.kind in method.adaptable]
    others = sorted({".".join(path.split(".")[-2:]) for path in adaptable})
    for path, module in targets.items():
        if module.kind in method.adaptable:
            continue
        message = f"{path} is no linear layer: PEFT can't adapt it"
        if module.kind == "embedding" and method.adapts_embeddings:
            message = f"{path} is an embedding, whose adapter is not modeled for {method.name}: leave it out"
        if _is_convolution(module):
            way = f"name {', '.join(others)}" if others else "name linear layers"
            message = f"{path} is a convolution, whose adapter is not modeled: {way}"
        yield Problem(loc="method.target_modules", msg=message, input=path)


def _is_convolution(module: Module) -> bool:
    weight = next((parameter for parameter in module.parameters if parameter.name == "weight"), None)
    return module.kind == "other" and weight is not None and len(weight.shape) > _MATRIX


def _head(method: TargetedMethod, model: Model, requested: Iterable[str]) -> Iterator[Problem]:
    """Yield a head among the targets that PEFT can't copy once it is adapted.

    Source: peft/peft_model.py: PeftModelForTokenClassification and PeftModelForQuestionAnswering add the head to
    `modules_to_save` after the model is adapted. `all-linear` includes it.
    """
    if model.task.name not in ("token_cls", "question_ans"):
        return
    if method.target_modules == "all-linear" or (model.head or "") in requested:
        message = f"PEFT adapts the head {model.head} too and can't train a copy of it: {proposed(method, model)}"
        yield Problem(loc="method.target_modules", msg=message, input=listed(method.target_modules))


def _copied(method: TargetedMethod, model: Model, requested: Iterable[str]) -> Iterator[Problem]:
    """Yield targets that PEFT copies with a classifier's head, because their names end in its name."""
    heads = model.task.head_names
    if not heads:
        return
    copied = (path for path in requested if path.rpartition(".")[2].endswith(heads))
    for path in copied:
        if path not in heads:
            message = f"PEFT trains a copy of {path} and can't adapt it too: {proposed(method, model)}"
            yield Problem(loc="method.target_modules", msg=message, input=listed(method.target_modules))


def _idle(method: TargetedMethod, model: Model, requested: Iterable[str]) -> Iterator[Problem]:
    """Yield targets outside the graph of a batch of text.

    If nothing else is trained, `backward` raises an error.
    """
    if not model.idle or any(method.is_saved(path) for path, _ in model.running):
        return
    if all(map(model.is_idle, requested)):
        yield Problem(
            loc="method.target_modules",
            msg=f"nothing that is trained is used for text: {way_out(method, model)}",
            input=method.target_modules,
        )


def _routers(method: TargetedMethod, model: Model, targets: Iterable[str]) -> Iterator[Problem]:
    """Yield a router that PEFT treats as a linear layer, although it returns a tuple."""
    router = ROUTERS.get(model.model_type)
    if router in method.refused_names(model) and any(is_named(path, (router,)) for path in targets):
        message = f"the router of {model.model_type} returns a tuple, which PEFT can't adapt: {way_out(method, model)}"
        yield Problem(loc="method.target_modules", msg=message, input=listed(method.target_modules))


def _wrapped(method: TargetedMethod, model: Model) -> Iterator[Problem]:
    """Yield names that also match modules around linear layers.

    PEFT's default matches the language model alone.
    """
    names = method.target_modules if isinstance(method.target_modules, tuple) else ()
    paths = [path for path in wrapped(names, model) if not is_named(path, method.exclude_modules or ())]
    if paths:
        default = method.facts.default_targets.get(model.model_type)
        way = f"leave it out for {' and '.join(default)} of the language model, or " if default else ""
        message = f'PEFT can\'t adapt {paths[0]}, a linear layer inside another module: {way}use "all-linear"'
        yield Problem(loc="method.target_modules", msg=message, input=listed(method.target_modules))


def _mamba_problems(method: TargetedMethod, model: Model, targets: Iterable[str]) -> Iterator[Problem]:
    """Yield a Mamba module that its kernels read without calling it. PEFT refuses it."""
    refused = names_of_mamba(method, model)
    names = [name for name in refused if any(is_named(path, (name,)) for path in targets)]
    if names:
        message = f"PEFT does not adapt {', '.join(names)} of {model.model_type}: {way_out(method, model)}"
        yield Problem(loc="method.target_modules", msg=message, input=listed(method.target_modules))


def _uncalled(method: TargetedMethod, model: Model, targets: Iterable[str]) -> Iterator[Problem]:
    """Yield a layer that the model does not call. PEFT creates an adapter for it that is not trained."""
    names = [name for name in uncalled(method, model) if any(is_named(path, (name,)) for path in targets)]
    if names:
        reason = f"{model.model_type} multiplies with the weight of {', '.join(names)} itself"
        message = f"{reason}, so that an adapter of it is not trained, which is not modeled: {way_out(method, model)}"
        yield Problem(loc="method.target_modules", msg=message, input=listed(method.target_modules))


def _numbered(method: TargetedMethod) -> Iterator[Problem]:
    targets = method.target_modules if isinstance(method.target_modules, tuple) else ()
    yield from names_one_layer("method.target_modules", targets)
    yield from names_one_layer("method.modules_to_save", method.modules_to_save or ())
    yield from names_one_layer("method.exclude_modules", method.exclude_modules or ())


def names_one_layer(loc: str, names: tuple[str, ...]) -> Iterator[Problem]:
    """Yield names that select single layers. All layers of a kind are planned in the same way."""
    for name in names:
        if any(part.isdigit() for part in name.split(".")):
            message = f"{name} picks one layer; plans that treat layers differently are not modeled"
            yield Problem(loc=loc, msg=message, input=list(names))


def listed(names: str | tuple[str, ...] | None) -> str | list[str] | None:
    """Return names in JSON notation."""
    return list(names) if isinstance(names, tuple) else names
