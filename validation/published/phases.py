"""Bytes allocated at points of a step, instead of at its peak."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE, rounded
from calculator.estimation.estimate import resident_state
from calculator.training_step.unrolled import events
from validation.published.outputs import keep_outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.model import Model
    from calculator.engine.tape import Allocation
    from calculator.estimation.request import Request
    from calculator.training_step.unrolled import Events
    from validation.published.measurement import Point


def between_steps(request: Request) -> int:
    """Return bytes of the weights, the added parameters and the optimizer states; the gradients are freed."""
    resident = resident_state(request)
    return sum(tensor.bytes for tensor in (*resident.tensors, *resident.optimizer_states))


def with_mean_of_logits(request: Request, model: Model, point: Point) -> int:
    """Return the bytes after a phase of a step without an optimizer.

    Its loss is the logits' mean. Its outputs stay alive.

    transformers before 4.45 casts the logits to float32 (`logits = logits.float()`), and their mean saves no tensor.
    """
    resident = resident_state(request)
    loaded = sum(tensor.bytes for tensor in resident.tensors)
    if point == "loaded":
        return loaded
    step = keep_outputs(events(resident.prepared), model)
    logits = _float32_logits(request, model)
    if point == "forward":
        return loaded + logits + _alive(step, step.forward, model)
    grads = sum(tensor.bytes for tensor in resident.gradients)
    return loaded + logits + grads + _alive(step, [*step.forward, *step.backward], model)


def _float32_logits(request: Request, model: Model) -> int:
    tokens = request.training.micro_batch_size * request.training.sequence_length
    return rounded(tokens * int(model.config["vocab_size"]) * ITEMSIZE["float32"])


def _alive(step: Events, passed: Sequence[int], model: Model) -> int:
    """Return bytes of the step that are alive after some events, without the reference step's loss and gradients."""
    alive = dict.fromkeys(event for event in passed if event >= 0)
    for event in passed:
        if event < 0:
            alive.pop(~event, None)
    return sum(step.rows[row][4] for row in alive if _counts(step.rows[row], model))


def _counts(row: Allocation, model: Model) -> bool:
    name, _, _, component, _ = row
    return component not in ("logits_and_loss", "gradients") and name != f"{model.head}: output"
