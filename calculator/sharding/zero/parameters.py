"""The trained parameters in the order of `named_parameters()`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import elements
from calculator.architecture.model import Stack
from calculator.engine.autograd import parameter_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    from calculator.architecture.model import Model
    from calculator.resident.tensors import ResidentTensor


class Key(NamedTuple):
    """A parameter's name, with `*` for the number of its layer, and that number."""

    name: str
    layer: int | None


def gradient_key(label: str, layer: int | None) -> Key:
    """Return the parameter whose gradient a mark is for; `layer` is the number of the layer that runs there."""
    name, own = parameter_of(label)
    return Key(name, own if own is not None else layer if "*" in name else None)


class Trained(NamedTuple):
    """A trained parameter."""

    key: Key
    tensor: ResidentTensor
    elements: int


def in_order(
    model: Model,
    tensors: Sequence[ResidentTensor],
    *,
    frozen: bool = False,
    layers: Container[int] | None = None,
) -> Iterator[Trained]:
    """Every trained parameter, layer by layer; `tensors` are the resident tensors of the model.

    `frozen`: the frozen ones too. `layers`: of the layers, those with these numbers alone.
    """
    sizes: dict[int, int] = {}
    for layer, own in parts(model, tensors, frozen=frozen):
        if layer is None or layers is None or layer in layers:
            for tensor in own:
                if id(tensor) not in sizes:
                    sizes[id(tensor)] = int(elements(tensor.shape))
                yield Trained(Key(tensor.name, layer), tensor, sizes[id(tensor)])


def one_by_one(model: Model, tensors: Sequence[ResidentTensor], *, frozen: bool = False) -> list[ResidentTensor]:
    """The tensors of the same parameters, each as often as layers have it."""
    return [tensor for _, own in parts(model, tensors, frozen=frozen) for tensor in own]


def parts(
    model: Model, tensors: Sequence[ResidentTensor], *, frozen: bool = False
) -> Iterator[tuple[int | None, Sequence[ResidentTensor]]]:
    """The parameters of each layer with its number, and those before and after the layers.

    Layers of one kind have the same sequence.
    """
    left = [tensor for tensor in tensors if tensor.trained or (frozen and tensor.parameters)]
    for stack in (part for part in model.parts if isinstance(part, Stack)):
        prefix = f"{stack.name}.*."
        before, left = _split(left, prefix)
        yield None, before
        own, left = _own(left, prefix)
        if own:
            yield from _layers(stack, own)
    yield None, left


def _split(tensors: list[ResidentTensor], prefix: str) -> tuple[list[ResidentTensor], list[ResidentTensor]]:
    """The tensors before the first of a stack, and the others."""
    at = next((n for n, tensor in enumerate(tensors) if tensor.name.startswith(prefix)), 0)
    return tensors[:at], tensors[at:]


def _own(tensors: list[ResidentTensor], prefix: str) -> tuple[list[ResidentTensor], list[ResidentTensor]]:
    """The tensors of a stack, which come first, and the others."""
    end = next((n for n, tensor in enumerate(tensors) if not tensor.name.startswith(prefix)), len(tensors))
    return tensors[:end], tensors[end:]


def _layers(stack: Stack, tensors: list[ResidentTensor]) -> Iterator[tuple[int, Sequence[ResidentTensor]]]:
    """The parameters of each layer. Those of one kind of layer follow those of another."""
    of = _by_layer(stack, tensors)
    for number, layer in enumerate(stack.layers):
        yield number, of.get(id(layer), ())


def _by_layer(stack: Stack, tensors: list[ResidentTensor]) -> dict[int, list[ResidentTensor]]:
    """The parameters of each kind of layer: a list that every layer has, or the list of each kind.

    A kind ends before a name that it has already, or that its modules do not have.
    """
    if tensors[0].count == len(stack.layers):
        return dict.fromkeys(map(id, stack.layers), tensors)
    counts = {count for _, count in stack.distinct}
    found: dict[int, list[ResidentTensor]] = {}
    at = 0
    for layer, count in stack.distinct:
        owners = {module.under(f"{stack.name}.*") for module in layer.modules}
        names: set[str] = set()
        end = at
        while end < len(tensors) and tensors[end].name not in names:
            tensor = tensors[end]
            if (tensor.count in counts and tensor.count != count) or not _is_of(tensor.name, owners):
                break
            names.add(tensor.name)
            end += 1
        found[id(layer)] = tensors[at:end]
        at = end
    assert at == len(tensors), tensors[at].name
    return found


def _is_of(name: str, owners: Container[str]) -> bool:
    """Whether a parameter is of a module, or of what a method adds to it: the start of its name is the module's."""
    while name:
        name = name.rpartition(".")[0]
        if name in owners:
            return True
    return False
