"""Which layers allocate the same, so that one of them is interpreted for all."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.layer_kind import LayerKind
    from calculator.architecture.model import Layer
    from calculator.architecture.module import Module


@lru_cache(maxsize=256)
def layer_classes(
    layers: tuple[Layer, ...],
    *,
    types_differ: bool,
    first_of_types_differs: bool,
    with_images: int,
    last_differs: bool,
    first_differs: bool,
) -> tuple[int, ...]:
    """Return a number for each layer. Layers that allocate the same have equal numbers. The result is cached.

    Layers differ by their modules, and by their attention type if `types_differ`. The first layer of an attention type
    differs from the others if `first_of_types_differs`: its backward pass frees the mask and the position tables of the
    type. The first `with_images` layers add features of images to the hidden states, and differ from all others.
    """
    numbers: dict[Layer, int] = {}
    distinct: list[tuple[LayerKind, tuple[Module, ...]]] = []
    for layer in dict.fromkeys(layers):
        kind = layer.kind if types_differ else _without_window(layer.kind)
        if (kind, layer.modules) not in distinct:
            distinct.append((kind, layer.modules))
        numbers[layer] = distinct.index((kind, layer.modules))
    classes = [*map(numbers.__getitem__, layers)]
    if first_of_types_differs:
        for position in _first_of_types(layers):
            classes[position] = len(layers) + position
    classes[:with_images] = range(-1 - with_images, -1)
    if last_differs:
        classes[-1] = -2
    if first_differs:
        classes[:1] = [-1]
    return tuple(classes)


def _first_of_types(layers: Sequence[Layer]) -> list[int]:
    """Return the first layers with and without a window.

    The first two layers are left out. They are interpreted by themselves, or the second after the first.
    """
    has_window = [layer.kind != _without_window(layer.kind) for layer in layers]
    return [first for first in map(has_window.index, set(has_window)) if first > 1]


def _without_window(kind: LayerKind) -> LayerKind:
    return kind if kind.attention == "full_attention" else replace(kind, attention="full_attention")
