"""The workspace of torch._foreach_norm on CUDA, which computes the norm of each gradient.

Source: aten/src/ATen/native/cuda/ForeachReduceOp.cu, foreach_tensor_norm_cuda.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from calculator.architecture.dimension import ceil_div, elements
from calculator.common.total import total_bytes
from calculator.resident.tensor import new_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensor import ResidentTensor

#: The elements of a chunk (kChunkSize in MultiTensorApply.cuh).
_CHUNK = 1 << 16

_DTYPE, _COUNT = attrgetter("dtype"), attrgetter("count")


def at_norms(gradients: Sequence[ResidentTensor]) -> tuple[ResidentTensors, ...]:
    """Return the norms and the workspace that are alive together.

    The gradients of one dtype run after those of the other. The dtype that occurs last runs first, as in an optimizer's
    foreach step.
    """
    moments: list[tuple[ResidentTensors, ...]] = []
    norms: tuple[ResidentTensors, ...] = ()
    for dtype in reversed(dict.fromkeys(map(_DTYPE, gradients))):
        group = [gradient for gradient in gradients if gradient.dtype == dtype]
        count = sum(map(_COUNT, group))
        norm = new_tensor(name="gradient norm", shape=(), dtype=dtype, component="workspace", count=count)
        norms = (*norms, norm)
        chunks = max(ceil_div(elements(gradient.shape), _CHUNK) for gradient in group)
        moments.append((*norms, _workspace(count * chunks)))
    return max(moments, key=total_bytes)


def _workspace(size: int) -> ResidentTensor:
    name = "norms of the chunks of gradients"
    return new_tensor(name=name, shape=(size,), dtype="float32", component="workspace")
