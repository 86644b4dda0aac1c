"""The calculator's prediction for a published measurement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE, rounded
from calculator.devices import workspaces
from calculator.devices.verdict import card_of
from calculator.estimation.compatibility import check
from calculator.estimation.estimate import estimate, model_of
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from validation.published import logits_pass, notebook, phases
from validation.published.blocks import max_allocated
from validation.published.buckets import max_reserved, mean_allocated
from validation.published.fast_kernels import patched
from validation.published.measurement import BUCKETS

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.estimation.request import Request
    from calculator.inputs.device import DeviceType
    from validation.published.measurement import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Bytes of the measured statistic, and the phase of the peak.

    `blocks`: of a peak of allocated memory, the same with blocks counted whole, as `max_memory_allocated` counts them.
    """

    bytes: int
    phase: str
    blocks: int | None = None


def predicted(measured: Measurement, device_type: DeviceType | None = None) -> Prediction:
    """Return the calculator's figure for a measurement with a request. `device_type` replaces that of the request.

    Raises:
        PlanError: if the calculator refuses the request.
    """
    request = parse_request(measured.run.request)
    if device_type is not None:
        request = replace(request, device=replace(request.device, type=device_type))
    model = model_of(request.model)
    check(request, model)
    with patched(measured.run.protocol):
        return _predicted(measured, request, model)


def _predicted(measured: Measurement, request: Request, model: Model) -> Prediction:
    if measured.run.protocol in ("mean_of_logits", "output_of_pass"):
        return _predict_in_notebook(measured, request, model)
    if measured.point is not None:
        return _predict_at_point(measured, request, model)
    if measured.run.protocol in BUCKETS:
        size = max_reserved(request, model, _workspaces(request), measured.run.protocol)
        by_rule = replace(request, reserved="rule")  # the phase depends on live tensors, which need no replay
        return Prediction(bytes=size, phase=estimate(by_rule).memory.peak_phase)
    if measured.run.protocol == "logits":
        return Prediction(bytes=logits_pass.max_allocated(request) + _workspaces(request)[0], phase="forward")
    if measured.run.protocol == "output_in_backward":
        prediction = _with_output(request, model)
    else:
        prediction = _predict_peak(measured, request)
    if measured.statistic == "max_memory_allocated" and request.device.sharding == "none":
        blocks = max_allocated(request, model, _workspaces(request), measured.run.protocol)
        return replace(prediction, blocks=blocks)
    return prediction


def _with_output(request: Request, model: Model) -> Prediction:
    """Return the peak of a step whose logits, in the computation's dtype, stay alive until the backward pass ends."""
    memory, training = estimate(request).memory, request.training
    itemsize = ITEMSIZE[training.autocast or training.dtype]
    tokens = training.micro_batch_size * training.sequence_length
    kept = {"backward": rounded(tokens * int(model.config["vocab_size"]) * itemsize)}
    peaks = {phase.name: phase.peak_bytes + kept.get(phase.name, 0) for phase in memory.phases}
    highest = max(peaks, key=lambda name: peaks[name])
    return Prediction(bytes=peaks[highest] + memory.library_workspace_bytes, phase=highest)


def _predict_peak(measured: Measurement, request: Request) -> Prediction:
    memory = estimate(request, SeriesCache()).memory
    if measured.statistic == "nvidia_smi":
        return Prediction(bytes=memory.required_bytes, phase=memory.peak_phase)
    if measured.statistic == "max_memory_reserved":
        return Prediction(bytes=memory.peak_reserved_bytes, phase=memory.peak_phase)
    return Prediction(bytes=memory.peak_allocated_bytes + memory.library_workspace_bytes, phase=memory.peak_phase)


def _predict_at_point(measured: Measurement, request: Request, model: Model) -> Prediction:
    point = measured.point
    assert point is not None
    if point == "after_step":
        return Prediction(bytes=mean_allocated(request, model, _workspaces(request)), phase=point)
    forward, backward = _workspaces(request)
    workspaces = {"loaded": 0, "forward": forward}.get(point, forward + backward)
    return Prediction(bytes=phases.between_steps(request) + workspaces, phase=point)


def _predict_in_notebook(measured: Measurement, request: Request, model: Model) -> Prediction:
    """Return the bytes after a phase, with the workspaces of the threads that have run until then."""
    point, before = measured.point, measured.run.workspaces_before
    if measured.run.protocol == "output_of_pass" and point == "forward":
        size = notebook.after_pass(request, model)
    else:
        size = notebook.allocated(request, model, point)
    count = {"loaded": before, "forward": max(before, 1)}.get(point or "", 2)
    return Prediction(bytes=size + count * _workspaces(request)[0], phase=point or "backward")


def _workspaces(request: Request) -> tuple[int, int]:
    return workspaces(card_of(request.device), request.stack)
