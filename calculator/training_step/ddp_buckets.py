"""DDP's buckets, in the order in which the gradients of a micro-batch are ready.

A micro-batch is interpreted with a mark for each gradient. Layers that are not interpreted have the order of the layer
that represents them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.autograd import GRADIENT_OF
from calculator.inputs.sharding import DDPConfig
from calculator.layers.accumulation import Accumulation
from calculator.layers.context import Context
from calculator.layers.sharding_hooks import Hooks
from calculator.sharding.ddp import Bucket, buckets
from calculator.sharding.zero.parameters import gradient_key, in_order
from calculator.trainers import trainer_of
from calculator.training_step.causal_lm import micro_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.engine.repetition import Repetition
    from calculator.engine.tape import Tape
    from calculator.inputs.training import Training
    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.tensors import ResidentTensor
    from calculator.sharding.ddp import Buckets
    from calculator.sharding.zero.parameters import Key


class _Marking(Hooks):
    """Hooks of a micro-batch that mark when each gradient is ready."""

    __slots__ = ()

    def accumulation(self, training: Training) -> Accumulation:  # noqa: ARG002  a hook's signature
        """Mark every gradient."""
        return Accumulation(adds=False, in_buckets=True, marked=True)


def ddp_buckets(prepared: PreparedModel, tensors: Sequence[ResidentTensor]) -> Buckets:
    """Return the buckets for a model's resident tensors."""
    parameters = {key: Bucket(size, tensor.dtype) for key, tensor, size in in_order(prepared.model, tensors)}

    def ready() -> list[Bucket]:
        left = dict(parameters)
        ordered = [left.pop(key) for key in _ready(prepared) if key in left]
        return [*ordered, *left.values()]

    return buckets([*parameters.values()], prepared.training.ddp or DDPConfig(), ready)


def _ready(prepared: PreparedModel) -> list[Key]:
    """Return the parameters in the order in which their gradients are ready."""
    context = Context(prepared, trainer_of(prepared.training).forward(prepared), hooks=_Marking())
    micro_batch(context)
    layers, found = context.repetition, _by_position(context.tape)
    places = _backward_places(layers)
    return [gradient_key(label, number) for at, number in places for label in found.get(at, ())]


def _by_position(tape: Tape) -> dict[int, list[str]]:
    """Return the marks of gradients, by the position of the layer in whose backward pass the gradient is ready.

    Code after the layers has the position after the last one. Code before them has position -1.
    """
    start = next(at for at, label in tape.marks if label == "backward")
    found: dict[int, list[str]] = {}
    own: list[str] = []
    for at, label in tape.marks:
        if at >= start and label.startswith(GRADIENT_OF):
            own.append(label)
        elif at >= start and label.startswith("layer ") and label.endswith(" backward"):
            found[int(label.split()[1])], own = own, []
    return {**found, min(found, default=0) - 1: own}


def _backward_places(layers: Repetition) -> Iterator[tuple[int, int | None]]:
    """Yield the positions of a backward pass in order, and the number of the layer at each.

    A position comes as often as it represents layers.
    """
    count, period = len(layers.numbers), layers.end - layers.start
    yield count, None
    yield from ((at, layers.numbers[at]) for at in reversed(range(layers.end, count)))
    for copy in reversed(range(layers.copies + 1)):
        yield from ((at, layers.numbers[at] + copy * period) for at in reversed(range(layers.start, layers.end)))
    yield from ((at, layers.numbers[at]) for at in reversed(range(layers.start)))
    yield -1, None
