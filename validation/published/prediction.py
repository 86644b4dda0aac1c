"""The calculator's prediction for a published measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.devices import cuda_context, library_workspace
from calculator.devices.verdict import card_of
from calculator.estimate.compatibility import check
from calculator.estimate.estimate import estimate, model_of
from calculator.estimate.request import parse_request
from validation.published import phases, trainer
from validation.published.adjustments import adjusted
from validation.published.buckets import max_reserved

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.common.sourced import Sourced
    from calculator.estimate.request import Request
    from validation.published.measurement import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Bytes of the measured statistic, with the adjustments, and the phase of the peak."""

    bytes: int
    phase: str
    adjustments: tuple[Sourced, ...] = ()


def predicted(measured: Measurement) -> Prediction:
    """The calculator's figure for a measurement with a request.

    Raises:
        PlanError: if the calculator refuses the request.
    """
    request = parse_request(measured.run.request)
    model = model_of(request.model)
    check(request, model)
    if measured.point is not None:
        return _at_point(measured, request, model)
    if measured.run.protocol == "buckets":
        size = max_reserved(request, model, _workspaces(request))
        return Prediction(bytes=size, phase=estimate(request).memory.peak_phase)
    return _by_trainer(measured, request, model)


def _by_trainer(measured: Measurement, request: Request, model: Model) -> Prediction:
    loss = trainer.OlderLoss(request, model, keeps_half=measured.run.protocol == "trainer_from_4_46")
    step, workspaces = loss.events(), _workspaces(request)
    peaks = trainer.peaks(request, step)
    highest = max(peaks, key=lambda phase: peaks[phase])
    if measured.statistic == "nvidia_smi":
        context = cuda_context(card_of(request.device)).bytes
        size = trainer.max_reserved(request, step, workspaces) + context
    else:
        size = peaks[highest] + sum(workspaces)
    adjustments = adjusted(measured.run.adjustments, request, model)
    return Prediction(bytes=size + sum(each.bytes for each in adjustments), phase=highest, adjustments=adjustments)


def _at_point(measured: Measurement, request: Request, model: Model) -> Prediction:
    point = measured.point
    assert point is not None
    forward, backward = _workspaces(request)
    workspaces = {"loaded": 0, "forward": forward}.get(point, forward + backward)
    adjustments = adjusted(measured.run.adjustments, request, model)
    if measured.run.protocol == "mean_of_logits":
        size = phases.with_mean_of_logits(request, model, point)
    else:
        size = phases.between_steps(request)
    total = size + workspaces + sum(each.bytes for each in adjustments)
    return Prediction(bytes=total, phase=point, adjustments=adjustments)


def _workspaces(request: Request) -> tuple[int, int]:
    forward, backward = library_workspace(card_of(request.device))
    return forward.bytes, backward.bytes
