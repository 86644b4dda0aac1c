"""LISA's layers: some of the decoder's, drawn at random, and everything outside it (Pan et al. 2024).

Sources: axolotl 0.19, utils/callbacks/lisa.py (LISACallback); LMFlow, pipeline/utils/lisa_trainer.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.common.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.architecture.model import Layer, Model
    from calculator.resident.tensor import ResidentTensor


def chosen(count: int, model: Model) -> tuple[int, ...]:
    """Return the layers of the largest draw: those with the most parameters, and of equal ones the last.

    The backward pass reaches the last ones while the most activations are alive.
    """
    layers = model.decoder.layers
    order = sorted(range(len(layers)), key=lambda number: (_size(layers[number]), number))
    return tuple(sorted(order[-count:]))


def _size(layer: Layer) -> int:
    return sum(elements(parameter.shape) for module in layer.modules for parameter in module.parameters)


def patterns(count: int, model: Model) -> tuple[str, ...]:
    """Return `unfrozen_parameters` with the parameters of these layers, and all outside the decoder's layers."""
    stack = model.decoder.name
    inside = (f"^{stack}.{number}." for number in chosen(count, model))
    return (f"^(?!{stack}.)", *inside)


def with_every_layer(tensors: Sequence[ResidentTensor], model: Model) -> list[ResidentTensor]:
    """Return the parameters with those of all layers trained, whose states the optimizer keeps once they exist."""
    prefix = f"{model.decoder.name}."
    return [replace(tensor, trained=True) if _is_frozen(tensor, prefix) else tensor for tensor in tensors]


def _is_frozen(tensor: ResidentTensor, prefix: str) -> bool:
    return bool(tensor.parameters) and not tensor.trained and tensor.name.startswith(prefix)


def problems(count: int, model: Model) -> Iterator[Problem]:
    """Yield more layers than the model has. numpy.random.choice refuses them."""
    layers = len(model.decoder.layers)
    if count > layers:
        message = f"{model.model_type} has {layers} layers: use at most that many"
        yield Problem(loc="method.lisa_n_layers", msg=message, input=count)
