"""The sentences of an answer about softmax, which allocates other tensors on CUDA than in a trace.

Its backward pass multiplies the gradient by the output first: one more tensor of the gradient's size. The math kernel
of sdpa writes zeros into the softmax itself, copies the probabilities to the queries' dtype, and keeps its float32
inputs until it ends.

Source: aten/src/ATen/native/cuda/SoftMax.cu, softmax_backward_cuda_out; ATen/native/transformers/attention.cpp,
_safe_softmax and _scaled_dot_product_attention_math.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE
from calculator.engine.softmax import SOFTMAX_GRADIENT, SOFTMAX_TEMPORARY
from calculator.estimation.compatibility import flash_problems
from calculator.estimation.cuda_difference import CudaDifference, largest, largest_of
from calculator.families import forward_of
from calculator.layers.math_attention import MASKED_SCORES, RETURNED_COPY

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.engine.kinds import Storages
    from calculator.estimation.request import Request
    from calculator.training_step.step import TrainingStep

IN_BACKWARD = "The backward pass of softmax allocates one more tensor of its gradient's size"

IN_MATH_KERNEL = "The math kernel's forward pass allocates a float32 matrix of scores less"


def _in_backward(step: TrainingStep) -> str:
    return f"{IN_BACKWARD}, up to {largest(step, SOFTMAX_TEMPORARY):,} bytes here."


def _matrix_of_scores(step: TrainingStep) -> int:
    """Return the bytes of the float32 matrix of scores that the math kernel's forward pass allocates less on CUDA."""
    return largest(step, MASKED_SCORES) * ITEMSIZE["float32"]


def _in_math_kernel(step: TrainingStep) -> str:
    copy = ", and a copy in half precision" if largest(step, RETURNED_COPY) else ""
    return f"{IN_MATH_KERNEL}{copy}."


def runs_math_kernel(storages: Storages) -> bool:
    """Return whether a pass runs the math kernel."""
    return largest_of(storages, MASKED_SCORES) > 0


def _way_out(request: Request, model: Model) -> str:
    """Return which attention needs no softmax of its own, if the family and the request allow one."""
    if request.training.attention == "eager" and forward_of(model).sdpa == "sdpa":
        return "With attention sdpa, a fused kernel needs no such tensor."
    if request.training.attention != "flash_attention_2" and not any(flash_problems(request, model)):
        return "With attention flash_attention_2, the kernel needs no such tensor."
    return ""


SOFTMAX = CudaDifference(most=partial(largest, name=SOFTMAX_GRADIENT), sentence=_in_backward, way_out=_way_out)

MATH_KERNEL = CudaDifference(most=_matrix_of_scores, sentence=_in_math_kernel)
