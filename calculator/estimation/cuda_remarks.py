"""The sentences of an answer about kernels that allocate other tensors on CUDA than in a trace on the meta device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.estimation.cuda_attention import KEYS, LAYOUT
from calculator.estimation.cuda_experts import EXPERTS
from calculator.estimation.cuda_softmax import IN_BACKWARD, IN_MATH_KERNEL, MATH_KERNEL, SOFTMAX, runs_math_kernel
from calculator.estimation.cuda_sums import EMBEDDING, MEANS, POOLING, SUMS
from calculator.training_step.resident_state import ResidentState
from calculator.training_step.step import TrainingStep

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from calculator.architecture.model import Model
    from calculator.engine.kinds import Storages
    from calculator.estimation.cuda_difference import CudaDifference
    from calculator.estimation.request import Request
    from calculator.inputs.device import Device

#: Everything that kernels allocate otherwise on CUDA, in the order of the sentences.
DIFFERENCES: tuple[CudaDifference, ...] = (SOFTMAX, MATH_KERNEL, LAYOUT, KEYS, SUMS, EMBEDDING, EXPERTS, POOLING, MEANS)

#: The part of a peak below which a difference is not mentioned, and below which one is not that changes no peak.
_SHARE, _SMALL = 1000, 100

#: The beginning of the sentence of an answer that counts the differences.
COUNTED = "With device.type cuda, the figures count what kernels allocate on CUDA and traces on the meta device lack."

#: What an answer says whose peak is the same on CUDA.
_ELSEWHERE = "On CUDA, kernels allocate otherwise, but the peak of allocated memory is the same, at another moment."

#: What an answer from a trace says about device.type cuda.
NOT_IN_TRACE = "The figures are those of a trace on the meta device: device.type cuda adds nothing to them."


def remarks(request: Request, model: Model, step: TrainingStep) -> Iterator[str]:
    """Yield by how much the peak differs on CUDA, or that the figures count it because device.type is cuda.

    Differences are named if they are more than a thousandth of the peak.
    """
    peaks = {peak.phase: peak.bytes for peak in step.deciding_peaks()}
    peak = max(peaks.values())
    differences = [] if step.resident.trainer.is_interval else _differences(step, peak)
    if request.device.type == "cuda":
        yield " ".join(filter(None, [COUNTED, *[difference.sentence(step) for difference, _ in differences]]))
    elif any(max([peaks[phase] for phase in difference.phases]) + change > peak for difference, change in differences):
        yield from _compared(request, model, step, differences)
    elif sum([change for _, change in differences]) * _SMALL > peak:
        yield _ELSEWHERE


def _differences(step: TrainingStep, peak: int) -> list[tuple[CudaDifference, int]]:
    """Return the differences of more than a thousandth of the peak, each with the most that it changes one by."""
    changes = [(difference, difference.most(step)) for difference in DIFFERENCES]
    return [(difference, change) for difference, change in changes if change * _SHARE > peak]


def _compared(
    request: Request, model: Model, step: TrainingStep, differences: Sequence[tuple[CudaDifference, int]]
) -> Iterator[str]:
    """Yield by how much the peak differs on CUDA. An equal one is mentioned if differences are not small."""
    on_cuda = TrainingStep(ResidentState(step.resident.prepared.on_cuda))
    peak = _peak(step)
    higher = _peak(on_cuda) - peak
    if higher:
        sentences = [_opening(higher), *[difference.sentence(on_cuda) for difference, _ in differences]]
        if higher > 0:
            sentences += [difference.way_out(request, model) for difference, _ in differences]
        yield " ".join(filter(None, sentences))
    elif sum([change for _, change in differences]) * _SMALL > peak:
        yield _ELSEWHERE


def passes_remarks(device: Device, passes: Iterable[Storages]) -> Iterator[str]:
    """Yield how the passes of `generate` differ on CUDA, or that the figures count it because device.type is cuda."""
    if device.type == "cuda":
        yield COUNTED
    elif any(map(runs_math_kernel, passes)):
        yield f"{IN_MATH_KERNEL} on CUDA. With device.type cuda, the figures count it."


def trace_remarks(request: Request) -> Iterator[str]:
    """Yield that a traced step has no tensors of CUDA, and which one it lacks if its attention is eager."""
    if request.device.type == "cuda":
        yield NOT_IN_TRACE
    if request.training.attention == "eager":
        yield f"{IN_BACKWARD} on CUDA, which the trace does not have."


def _peak(step: TrainingStep) -> int:
    return max([peak.bytes for peak in step.deciding_peaks()])


def _opening(higher: int) -> str:
    difference = f"{abs(higher):,} bytes {'higher' if higher > 0 else 'lower'}"
    return f"On CUDA, the peak of allocated memory is {difference}; with device.type cuda, the figures count it."
