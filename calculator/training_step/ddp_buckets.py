"""DDP's buckets, in the order in which the gradients of a micro-batch are ready.

Layers that are not interpreted have the order of the layer that represents them.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.engine.autograd import GRADIENT_OF, parameter_of
from calculator.inputs.sharding import DDPConfig
from calculator.sharding.ddp import Bucket, buckets
from calculator.sharding.zero.parameters import parameters_by_part
from calculator.training_step.causal_lm import micro_batch
from calculator.training_step.training_context import training_context

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.engine.repetition import Repetition
    from calculator.engine.tape import Tape
    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.tensor import ResidentTensor
    from calculator.sharding.ddp import Buckets
    from calculator.training_step.run import Run

#: A parameter's name, with `*` for the number of its layer, and that number.
_Key = tuple[str, int | None]


def ddp_buckets(prepared: PreparedModel, tensors: Sequence[ResidentTensor], run: Run | None) -> Buckets:
    """Return the buckets for a model's resident tensors.

    `run` is a micro-batch of the model if one has run, or None.
    """
    sizes = {id(tensor): Bucket(int(elements(tensor.shape)), tensor.dtype) for tensor in tensors if tensor.trained}
    parameters: dict[_Key, Bucket] = {}
    every = [*parameters_by_part(prepared.model, tensors)]
    distinct = {id(own): own for _, own in every}
    names = {key: [tensor.name for tensor in own] for key, own in distinct.items()}
    part_sizes = {key: [sizes[id(tensor)] for tensor in own] for key, own in distinct.items()}
    for layer, own in every:
        keys = zip(names[id(own)], repeat(layer), strict=False)
        parameters.update(zip(keys, part_sizes[id(own)], strict=True))

    def ready() -> list[Bucket]:
        order = dict.fromkeys(filter(parameters.__contains__, _ready(prepared, run)))
        left = [] if len(order) == len(parameters) else [key for key in parameters if key not in order]
        return [*map(parameters.__getitem__, (*order, *left))]

    return buckets([*parameters.values()], prepared.training.ddp or DDPConfig(), ready)


def _ready(prepared: PreparedModel, run: Run | None) -> list[_Key]:
    """Return the parameters in the order in which their gradients are ready."""
    if run is not None:
        return _marked_parameters(run.tape, run.repetition)
    context = training_context(prepared)
    micro_batch(context)
    order = _marked_parameters(context.tape, context.repetition)
    context.drop_graph()
    return order


def _marked_parameters(tape: Tape, layers: Repetition) -> list[_Key]:
    """Return the parameters whose gradients a tape marks, including those of layers that are not interpreted."""
    by_position = {at: [parameter_of(label) for label in labels] for at, labels in _by_position(tape).items()}
    in_layers = {at: [name for name, own in marks if own is None and "*" in name] for at, marks in by_position.items()}
    order: list[_Key] = []
    for at, layer in _backward_places(layers):
        marks, names = by_position.get(at, ()), in_layers.get(at, ())
        if len(names) == len(marks):
            order.extend(zip(names, repeat(layer), strict=False))
        else:
            order += [(name, own if own is not None else layer if "*" in name else None) for name, own in marks]
    return order


def _by_position(tape: Tape) -> dict[int, list[str]]:
    """Return the marks of gradients, by the position of the layer in whose backward pass the gradient is ready.

    Code after the layers has the position after the last one. Code before them has position -1.
    """
    start = next(at for at, label in tape.marks if label == "backward")
    labels_by_position: dict[int, list[str]] = {}
    names: list[str] = []
    for at, label in tape.marks:
        if at >= start and label.startswith(GRADIENT_OF):
            names.append(label)
        elif at >= start and label.startswith("layer ") and label.endswith(" backward"):
            labels_by_position[int(label.split()[1])], names = names, []
    return {**labels_by_position, min(labels_by_position, default=0) - 1: names}


def _backward_places(layers: Repetition) -> Iterator[tuple[int, int | None]]:
    """Yield the positions of a backward pass in order, and the number of the layer at each.

    A position is yielded once for each layer that it represents.
    """
    count, period = len(layers.numbers), layers.end - layers.start
    yield count, None
    yield from ((at, layers.numbers[at]) for at in reversed(range(layers.end, count)))
    for copy in reversed(range(layers.copies + 1)):
        yield from ((at, layers.numbers[at] + copy * period) for at in reversed(range(layers.start, layers.end)))
    yield from ((at, layers.numbers[at]) for at in reversed(range(layers.start)))
    yield -1, None
