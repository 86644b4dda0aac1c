"""The place of a parameter that a method shares among modules: it belongs to the first module that has it.

Source: torch/nn/modules/module.py, named_parameters, which skips a parameter that it has yielded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.model import Stack
from calculator.sharding.zero.parameters import parameters_by_part

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from calculator.architecture.module import Module
    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.tensor import ResidentTensor


class _Place(NamedTuple):
    """The layer and the path of the first module that has a parameter, and the names of the module's later ones."""

    layer: int | None
    path: str
    later: frozenset[str]

    def position(self, tensors: Sequence[ResidentTensor]) -> int | None:
        """Return the index in a part of the model at which the parameter belongs. None if the module is elsewhere."""
        own = [at for at, tensor in enumerate(tensors) if tensor.name.startswith(f"{self.path}.")]
        return next((at for at in own if tensors[at].name in self.later), own[-1] + 1) if own else None


def parameters_in_place(
    prepared: PreparedModel, tensors: Sequence[ResidentTensor]
) -> Iterator[tuple[int | None, Sequence[ResidentTensor]]]:
    """Yield the parameters as `parameters_by_part` does, with each shared one in its first module.

    A shared parameter is a part of its own, without a layer.
    """
    model, shared_names = prepared.model, shared_parameters(prepared)
    if not shared_names:
        yield from parameters_by_part(model, tensors)
        return
    shared = {tensor.name: tensor for tensor in tensors if tensor.name in shared_names}
    places = _places(prepared, shared_names)
    for layer, own in parameters_by_part(
        model, [tensor for tensor in tensors if tensor.name not in shared], frozen=True
    ):
        indices = {name: place.position(own) for name, place in places.items() if place.layer == layer}
        begin = 0
        for index, name in sorted((index, name) for name, index in indices.items() if index is not None):
            yield layer, own[begin:index]
            yield None, [shared[name]]
            begin = index
        yield layer, own[begin:] if begin else own


def shared_parameters(prepared: PreparedModel) -> set[str]:
    """Return the names of the parameters that a method shares among modules."""
    method_names = {parameter.name for parameter in prepared.method.added(prepared.model, prepared.given)}
    return method_names.intersection(prepared.model.tied.values())


def _places(prepared: PreparedModel, names: Collection[str]) -> dict[str, _Place]:
    """Return the places of shared parameters by their names, in the order of the model."""
    place_by_name: dict[str, _Place] = {}
    for layer, path, module in _modules(prepared):
        if len(place_by_name) == len(names):
            break
        added = [f"{path}.{parameter.name}" for parameter in prepared.module_spec(path, module).added]
        for at, name in enumerate(added):
            shared = prepared.model.tied.get(name)
            if shared is not None and shared in names:
                place_by_name.setdefault(shared, _Place(layer, path, frozenset(added[at + 1 :])))
    return place_by_name


def _modules(prepared: PreparedModel) -> Iterator[tuple[int | None, str, Module]]:
    """Yield every module of every layer with the layer's number and its path, and the modules outside the layers."""
    for part in prepared.model.parts:
        if not isinstance(part, Stack):
            yield None, part.name, part
            continue
        for number, layer in enumerate(part.layers):
            for module in layer.modules:
                yield number, module.under(f"{part.name}.*"), module
