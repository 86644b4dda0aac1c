"""What an answer says about softmax, which allocates other tensors on CUDA than in a trace.

Its backward pass multiplies the gradient by the output first: one more tensor of the gradient's size. The math kernel
of sdpa writes zeros into the softmax itself, copies the probabilities to the queries' dtype, and keeps its float32
inputs until it ends.

Source: aten/src/ATen/native/cuda/SoftMax.cu, softmax_backward_cuda_out; ATen/native/transformers/attention.cpp,
_safe_softmax and _scaled_dot_product_attention_math.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.softmax import SOFTMAX_GRADIENT, SOFTMAX_TEMPORARY
from calculator.estimation.compatibility import flash_problems
from calculator.families import forward_of
from calculator.layers.math_attention import MASKED_SCORES, RETURNED_COPY
from calculator.training_step.resident_state import ResidentState
from calculator.training_step.step import TrainingStep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.estimation.request import Request

#: The part of a peak below which a temporary is not mentioned. Routers of experts need less.
_SHARE = 1000

_IN_BACKWARD = "On CUDA, the backward pass of softmax allocates one more tensor of its gradient's size"

_NOT_COUNTED = "The figures do not count it. With device.type cuda, they do."

_IN_MATH_KERNEL = " The math kernel's forward pass allocates a float32 matrix of scores less"


def remarks(request: Request, model: Model, step: TrainingStep) -> Iterator[str]:
    """Yield by how much the peak differs on CUDA, if softmax is a part of the step that counts."""
    runs_math = _largest(step, MASKED_SCORES) > 0
    peak = _peak(step)
    if request.device.type == "cuda" or step.resident.trainer.is_interval:
        return
    if not (runs_math or _largest(step, SOFTMAX_GRADIENT) * _SHARE > peak):
        return
    on_cuda = TrainingStep(ResidentState(step.resident.prepared.on_cuda))
    difference = _peak(on_cuda) - peak
    counts = f", up to {_largest(on_cuda, SOFTMAX_TEMPORARY):,} bytes here. {_NOT_COUNTED}"
    of_math = _of_math_kernel(on_cuda) if runs_math else ""
    sentence = _IN_BACKWARD + counts + of_math + _difference(difference)
    yield sentence + (_way_out(request, model) if difference > 0 else "")


def of_trace(request: Request) -> Iterator[str]:
    """Yield that the backward pass of a traced step allocates more on CUDA, if its attention is eager."""
    if request.training.attention == "eager":
        yield f"{_IN_BACKWARD}, which the trace does not have."


def _peak(step: TrainingStep) -> int:
    return max([peak.bytes for peak in step.deciding_peaks()])


def _largest(step: TrainingStep, name: str) -> int:
    """Return the bytes of the largest tensor of a name in a micro-batch. 0 if there is none."""
    storages = step.run.storages
    kinds = [kind for kind, key in enumerate(storages.kinds.keys) if key[0].endswith(name)]
    return max([storages.sizes[storages.kinds.size_of[kind]] for kind in kinds], default=0)


def _of_math_kernel(on_cuda: TrainingStep) -> str:
    return _IN_MATH_KERNEL + (", and a copy in half precision." if _largest(on_cuda, RETURNED_COPY) else ".")


def _difference(bytes: int) -> str:  # noqa: A002
    if bytes == 0:
        return " The peak of allocated memory is the same on CUDA, because it is at another moment."
    return f" On CUDA, the peak of allocated memory is {abs(bytes):,} bytes {'higher' if bytes > 0 else 'lower'}."


def _way_out(request: Request, model: Model) -> str:
    """Return which attention needs no softmax of its own, if the family and the request allow one."""
    if request.training.attention == "eager" and forward_of(model).sdpa == "sdpa":
        return " With attention sdpa, a fused kernel needs no such tensor."
    if request.training.attention != "flash_attention_2" and not any(flash_problems(request, model)):
        return " With attention flash_attention_2, the kernel needs no such tensor."
    return ""
