"""What an answer says about kernels that allocate otherwise on CUDA than in a trace on PyTorch's meta device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.estimation.cuda_softmax import IN_BACKWARD, MATH_KERNEL, SOFTMAX
from calculator.training_step.resident_state import ResidentState
from calculator.training_step.step import TrainingStep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.estimation.cuda_difference import CudaDifference
    from calculator.estimation.request import Request

#: Everything that kernels allocate otherwise on CUDA, in the order of the sentences.
DIFFERENCES: tuple[CudaDifference, ...] = (SOFTMAX, MATH_KERNEL)

#: The part of a peak below which differences are not mentioned.
_SHARE = 1000

#: The beginning of the sentence of an answer that counts the differences.
COUNTED = "The figures count what PyTorch's kernels allocate on CUDA and traces on its meta device do not have."


def remarks(request: Request, model: Model, step: TrainingStep) -> Iterator[str]:
    """Yield by how much the peak differs on CUDA, or what the figures count because device.type is cuda.

    A second step is interpreted only if differences are more than a thousandth of the peak.
    """
    if step.resident.trainer.is_interval:
        return
    peak = _peak(step)
    found = [difference for difference in DIFFERENCES if difference.most(step)]
    if sum([difference.most(step) for difference in found]) * _SHARE <= peak:
        return
    if request.device.type == "cuda":
        yield " ".join([COUNTED, *[difference.sentence(step) for difference in found]])
        return
    on_cuda = TrainingStep(ResidentState(step.resident.prepared.on_cuda))
    higher = _peak(on_cuda) - peak
    sentences = [_opening(higher), *[difference.sentence(on_cuda) for difference in found]]
    if higher > 0:
        sentences += [difference.way_out(request, model) for difference in found]
    yield " ".join(filter(None, sentences))


def of_trace(request: Request) -> Iterator[str]:
    """Yield that the backward pass of a traced step allocates more on CUDA, if its attention is eager."""
    if request.training.attention == "eager":
        yield f"{IN_BACKWARD} on CUDA, which the trace does not have."


def _peak(step: TrainingStep) -> int:
    return max([peak.bytes for peak in step.deciding_peaks()])


def _opening(higher: int) -> str:
    if higher == 0:
        return "On CUDA, kernels allocate otherwise, but the peak of allocated memory is the same, at another moment."
    difference = f"{abs(higher):,} bytes {'higher' if higher > 0 else 'lower'}"
    return f"On CUDA, the peak of allocated memory is {difference}; with device.type cuda, the figures count it."
