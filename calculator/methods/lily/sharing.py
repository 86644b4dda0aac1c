"""The targets of Lily that share a matrix: A in blocks of layers, B in all layers of a kind of module.

Source: peft 0.21, tuners/lily/model.py, LilyModel._post_injection_hook.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from calculator.architecture.model import Layer, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.methods.targeted.method import TargetModules

A, B, ROUTER = "lily_A", "lily_B", "lily_router.weight"


class Shares(Protocol):
    """The settings that sharing depends on."""

    @property
    def stride_A(self) -> int:  # noqa: N802  PEFT's name
        """The number of consecutive targets that share A."""

    @property
    def target_modules(self) -> TargetModules:
        """The names of the targets. Sharing with `all-linear` is not modeled."""

    def names(self, model: Model) -> tuple[str, ...]:
        """Return the names that targets are grouped by."""

    def is_target(self, path: str, module: Module, model: Model) -> bool:
        """Return whether a module is adapted."""


class Group(NamedTuple):
    """The names of a target's matrices in the whole model. None for a matrix of its own."""

    a: str | None
    b: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """A module of one layer: its whole name, and its path with `*` for the layer's number."""

    name: str
    path: str
    module: Module


def own_name(matrix: str, module: Module) -> str:
    """Return the name of a matrix within its module.

    If there are several layers of the kind, the name contains the first layer.
    """
    return f"{matrix}.weight" if module.layer is None else f"{matrix}.from_layer_{module.layer}.weight"


def targets(method: Shares, model: Model) -> list[Place]:
    """Return every target of every layer, in the model's order."""
    return [place for place in _target_places(model) if method.is_target(place.path, place.module, model)]


def groups(method: Shares, model: Model) -> dict[str, Group]:
    """Return the matrices of each target, by its whole name.

    Targets with the same last name and shape share them.
    """
    if method.target_modules == "all-linear":
        return {}
    names, kinds = method.names(model), defaultdict[tuple[str, int, int], list[Place]](list)
    for target in targets(method, model):
        suffix = max((name for name in names if target.name.endswith(name)), key=len)
        kinds[suffix, int(target.module.out_features), int(target.module.in_features)].append(target)
    group_by_name: dict[str, Group] = {}
    for alike in kinds.values():
        b = f"{_owner(alike, model)}.{B}.weight"
        for start in range(0, len(alike), method.stride_A):
            block = alike[start : start + method.stride_A]
            a = None if method.stride_A == 1 else f"{_owner(block, model)}.{A}.weight"
            group_by_name |= {target.name: Group(a, b) for target in block}
    return group_by_name


def _owner(places: list[Place], model: Model) -> str:
    """Return the name of the first of these modules that the step runs, or of the first one if it runs none."""
    return next((place.name for place in places if not model.is_idle(place.path)), places[0].name)


def with_sharing(method: Shares, model: Model) -> Model:
    """Return the model with a kind of layer for each set of shared matrices, and with their names in `tied`."""
    shared = groups(method, model)
    if not shared or any(module.layer is not None for module in model.modules):
        return model
    parts = tuple(_split(part, shared) if isinstance(part, Stack) else part for part in model.parts)
    split = replace(model, parts=parts)
    tied = dict(model.tied)
    for place in _target_places(split):
        group = shared.get(place.name)
        for matrix, name in zip((A, B), group or (), strict=False):
            if name is not None:
                tied[f"{place.path}.{own_name(matrix, place.module)}"] = name
    return replace(split, tied=tied)


def _split(stack: Stack, shared: dict[str, Group]) -> Stack:
    kinds: dict[object, Layer] = {}
    layers = []
    for index, layer in enumerate(stack.layers):
        treatment = tuple(shared.get(f"{stack.name}.{index}.{module.name}") for module in layer.modules)
        numbered = replace(layer, modules=tuple(replace(module, layer=index) for module in layer.modules))
        layers.append(kinds.setdefault((layer, treatment), numbered))
    return Stack(name=stack.name, layers=tuple(layers))


def _target_places(model: Model) -> Iterator[Place]:
    for part in model.parts:
        if not isinstance(part, Stack):
            yield Place(part.name, part.name, part)
            continue
        for index, layer in enumerate(part.layers):
            for module in layer.modules:
                yield Place(f"{part.name}.{index}.{module.name}", f"{part.name}.*.{module.name}", module)
