"""The parameters of a prepared model with their full names, in the order of `named_parameters()`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.model import Stack
from calculator.resident.tensors import layer_parameters, outer_parameters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.tensor import ResidentTensor


class Named(NamedTuple):
    """A parameter: its name with the number of the layer, and its kind, whose name has `*` in place of the number."""

    name: str
    kind: ResidentTensor


def named_parameters(prepared: PreparedModel) -> Iterator[Named]:
    """Yield the parameters of a model, including those that the method adds."""
    outer = outer_parameters(prepared)
    for part in prepared.model.parts:
        if isinstance(part, Stack):
            for index, layer in enumerate(part.layers):
                for kind in layer_parameters(prepared, layer, part.name):
                    name = kind.name.replace(".*.", f".{index}.", 1)
                    yield Named(name, replace(kind, count=1, bytes=kind.bytes // kind.count))
        else:
            parameters = [tensor for tensor in outer if tensor.name.startswith(f"{part.name}.")]
            outer = [tensor for tensor in outer if tensor not in parameters]
            yield from (Named(parameter.name, parameter) for parameter in parameters)
    yield from (Named(tensor.name, tensor) for tensor in outer)
