"""What an answer says about kernels that allocate otherwise on CUDA than in a trace on PyTorch's meta device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.estimation.cuda_softmax import IN_BACKWARD, IN_MATH_KERNEL, MATH_KERNEL, SOFTMAX, runs_math_kernel
from calculator.estimation.cuda_sums import EMBEDDING, SUMS
from calculator.training_step.resident_state import ResidentState
from calculator.training_step.step import TrainingStep

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.architecture.model import Model
    from calculator.engine.kinds import Storages
    from calculator.estimation.cuda_difference import CudaDifference
    from calculator.estimation.request import Request
    from calculator.inputs.device import Device

#: Everything that kernels allocate otherwise on CUDA, in the order of the sentences.
DIFFERENCES: tuple[CudaDifference, ...] = (SOFTMAX, MATH_KERNEL, SUMS, EMBEDDING)

#: The part of a peak below which differences are not mentioned.
_SHARE = 1000

#: The beginning of the sentence of an answer that counts the differences.
COUNTED = "With device.type cuda, the figures count what kernels allocate on CUDA and traces on the meta device lack."

#: What an answer from a trace says about device.type cuda.
NOT_IN_TRACE = "The figures are those of a trace on the meta device: device.type cuda adds nothing to them."


def remarks(request: Request, model: Model, step: TrainingStep) -> Iterator[str]:
    """Yield by how much the peak differs on CUDA, or that the figures count it because device.type is cuda.

    Differences are named, and a second step is interpreted, only if they are more than a thousandth of the peak.
    """
    counted, peak = request.device.type == "cuda", _peak(step)
    found = [] if step.resident.trainer.is_interval else [each for each in DIFFERENCES if each.most(step)]
    if sum([difference.most(step) for difference in found]) * _SHARE <= peak:
        found = []
    if counted:
        yield " ".join([COUNTED, *[difference.sentence(step) for difference in found]])
    if counted or not found:
        return
    on_cuda = TrainingStep(ResidentState(step.resident.prepared.on_cuda))
    higher = _peak(on_cuda) - peak
    sentences = [_opening(higher), *[difference.sentence(on_cuda) for difference in found]]
    if higher > 0:
        sentences += [difference.way_out(request, model) for difference in found]
    yield " ".join(filter(None, sentences))


def of_passes(device: Device, passes: Iterable[Storages]) -> Iterator[str]:
    """Yield how the passes of `generate` differ on CUDA, or that the figures count it because device.type is cuda."""
    if device.type == "cuda":
        yield COUNTED
    elif any(map(runs_math_kernel, passes)):
        yield f"{IN_MATH_KERNEL} on CUDA. With device.type cuda, the figures count it."


def of_trace(request: Request) -> Iterator[str]:
    """Yield that a traced step has no tensors of CUDA, and which one it lacks if its attention is eager."""
    if request.device.type == "cuda":
        yield NOT_IN_TRACE
    if request.training.attention == "eager":
        yield f"{IN_BACKWARD} on CUDA, which the trace does not have."


def _peak(step: TrainingStep) -> int:
    return max([peak.bytes for peak in step.deciding_peaks()])


def _opening(higher: int) -> str:
    if higher == 0:
        return "On CUDA, kernels allocate otherwise, but the peak of allocated memory is the same, at another moment."
    difference = f"{abs(higher):,} bytes {'higher' if higher > 0 else 'lower'}"
    return f"On CUDA, the peak of allocated memory is {difference}; with device.type cuda, the figures count it."
