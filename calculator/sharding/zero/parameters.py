"""The trained parameters in the order of `named_parameters()`, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import elements
from calculator.architecture.model import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.architecture.model import Model
    from calculator.resident.tensors import ResidentTensor


class Key(NamedTuple):
    """A parameter's name, with `*` for the number of its layer, and that number."""

    name: str
    layer: int | None


class Trained(NamedTuple):
    """A trained parameter."""

    key: Key
    tensor: ResidentTensor
    elements: int


def in_order(model: Model, tensors: Sequence[ResidentTensor], *, frozen: bool = False) -> Iterator[Trained]:
    """Every trained parameter, layer by layer; `tensors` are the resident tensors of the model.

    `frozen`: the frozen ones too.
    """
    left = [tensor for tensor in tensors if tensor.trained or (frozen and tensor.parameters)]
    for stack in (part for part in model.parts if isinstance(part, Stack)):
        prefix = f"{stack.name}.*."
        before, left = _split(left, prefix)
        yield from map(_single, before)
        own, left = _own(left, prefix)
        if own:
            yield from _layers(stack, own)
    yield from map(_single, left)


def _single(tensor: ResidentTensor) -> Trained:
    return Trained(Key(tensor.name, None), tensor, int(elements(tensor.shape)))


def _split(tensors: list[ResidentTensor], prefix: str) -> tuple[list[ResidentTensor], list[ResidentTensor]]:
    """The tensors before the first of a stack, and the others."""
    at = next((n for n, tensor in enumerate(tensors) if tensor.name.startswith(prefix)), 0)
    return tensors[:at], tensors[at:]


def _own(tensors: list[ResidentTensor], prefix: str) -> tuple[list[ResidentTensor], list[ResidentTensor]]:
    """The tensors of a stack, which come first, and the others."""
    end = next((n for n, tensor in enumerate(tensors) if not tensor.name.startswith(prefix)), len(tensors))
    return tensors[:end], tensors[end:]


def _layers(stack: Stack, tensors: list[ResidentTensor]) -> Iterator[Trained]:
    """The parameters of each layer. Those of one kind of layer follow those of another, and names begin anew."""
    kinds: list[list[tuple[str, ResidentTensor, int]]] = []
    names: set[str] = set()
    for tensor in tensors:
        if not kinds or tensor.name in names:
            kinds.append([])
            names = set()
        names.add(tensor.name)
        kinds[-1].append((tensor.name, tensor, int(elements(tensor.shape))))
    of = _by_layer(stack, kinds)
    for number, layer in enumerate(stack.layers):
        for name, tensor, size in of.get(id(layer), ()):
            yield Trained(Key(name, number), tensor, size)


def _by_layer(
    stack: Stack, kinds: list[list[tuple[str, ResidentTensor, int]]]
) -> dict[int, list[tuple[str, ResidentTensor, int]]]:
    """The parameters of each kind of layer: a list that every layer has, or one for each kind with as many layers."""
    if kinds[0][0][1].count == len(stack.layers):
        return dict.fromkeys(map(id, stack.layers), kinds[0])
    found: dict[int, list[tuple[str, ResidentTensor, int]]] = {}
    for layer, count in stack.distinct:
        if kinds and kinds[0][0][1].count == count:
            found[id(layer)] = kinds.pop(0)
    return found
