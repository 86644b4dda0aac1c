"""What is allocated at points of a step, rather than at its peak."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE, rounded
from calculator.estimate.estimate import resident_state
from calculator.training_step.unrolled import events
from validation.published.outputs import held

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.model import Model
    from calculator.engine.tape import Allocation
    from calculator.estimate.request import Request
    from calculator.training_step.unrolled import Events
    from validation.published.measurement import Point


def between_steps(request: Request) -> int:
    """Weights, what the method adds, and the optimizer's states; gradients are gone."""
    resident = resident_state(request)
    return sum(tensor.bytes for tensor in (*resident.tensors, *resident.optimizer_states))


def with_mean_of_logits(request: Request, model: Model, point: Point) -> int:
    """After a phase of a step without an optimizer, whose loss is the logits' mean, the outputs being kept.

    transformers before 4.45 keeps the logits in float32 (`logits = logits.float()`), and their mean saves nothing.
    """
    resident = resident_state(request)
    loaded = sum(tensor.bytes for tensor in resident.tensors)
    if point == "loaded":
        return loaded
    told = held(events(resident.prepared), model)
    logits = _float32_logits(request, model)
    if point == "forward":
        return loaded + logits + _alive(told, told.forward, model)
    grads = sum(tensor.bytes for tensor in resident.gradients)
    return loaded + logits + grads + _alive(told, [*told.forward, *told.backward], model)


def _float32_logits(request: Request, model: Model) -> int:
    tokens = request.training.micro_batch_size * request.training.sequence_length
    return rounded(tokens * int(model.config["vocab_size"]) * ITEMSIZE["float32"])


def _alive(told: Events, passed: Sequence[int], model: Model) -> int:
    """Bytes of the step's own storages alive after some events, without the reference step's loss and gradients."""
    alive = dict.fromkeys(event for event in passed if event >= 0)
    for event in passed:
        if event < 0:
            alive.pop(~event, None)
    return sum(told.rows[row][4] for row in alive if _counts(told.rows[row], model))


def _counts(row: Allocation, model: Model) -> bool:
    name, _, _, component, _ = row
    return component not in ("logits_and_loss", "gradients") and name != f"{model.head}: output"
