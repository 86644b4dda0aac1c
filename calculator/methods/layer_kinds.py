"""Kinds of layers for methods that treat single layers differently: each way of treatment becomes a kind of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.model import Layer, Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module


def full_name(path: str, module: Module) -> str:
    """Return the name of a module in the first layer that has it."""
    return path if module.layer is None else path.replace("*", str(module.layer), 1)


def split(model: Model, treatment: Callable[[str, Module], Hashable]) -> Model:
    """Return the model with a kind of layer for each treatment of the modules in it.

    `treatment` gets a module's full name and the module. A model that is split already is returned unchanged.
    """
    if any(module.layer is not None for module in model.modules):
        return model
    parts = tuple(_split(part, treatment) if isinstance(part, Stack) else part for part in model.parts)
    return replace(model, parts=parts)


def _split(stack: Stack, treatment: Callable[[str, Module], Hashable]) -> Stack:
    kinds: dict[object, Layer] = {}
    layers = []
    for index, layer in enumerate(stack.layers):
        treated = tuple(treatment(module.under(f"{stack.name}.{index}"), module) for module in layer.modules)
        layers.append(kinds.setdefault((layer, treated), _numbered(layer, index)))
    return Stack(name=stack.name, layers=tuple(layers))


def _numbered(layer: Layer, index: int) -> Layer:
    return replace(layer, modules=tuple(replace(module, layer=index) for module in layer.modules))
