"""Where autograd adds a second gradient to a first: in place on CUDA, out of place while a dispatch mode watches.

References:
    torch/csrc/autograd/input_buffer.cpp, `accumulate` and `can_accumulate_inplace`: in place where the buffer holds
    the only reference to a dense tensor and to its storage. `at::isTensorSubclassLike` is true under a dispatch mode,
    which is why the plain trace would add out of place.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch._prims_common import is_non_overlapping_and_dense_or_false
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from types import FrameType


#: Functions between the engine's call and the question, torch's decorators of a dispatch mode among them.
_BETWEEN = frozenset({"_from_engine", "in_place", "__torch_dispatch__", "_fn", "inner"})


def in_place(first: torch.Tensor, second: object, *_: object) -> bool:
    """Whether CUDA would add this pair in place: both gradients of one tensor, the first held by nobody else."""
    if torch.is_grad_enabled() or not isinstance(second, torch.Tensor) or first.shape != second.shape:
        return False
    return _from_engine() and is_non_overlapping_and_dense_or_false(first) and _uses(first) == uses_when_only()


def _from_engine() -> bool:
    """Whether the engine itself asked, and no Python function of the backward pass."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name in _BETWEEN:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name == "_engine_run_backward"


def _uses(tensor: torch.Tensor) -> tuple[int, int]:
    return tensor._use_count(), torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)


class _Counting(TorchDispatchMode):
    seen: tuple[int, int] | None = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        if func is torch.ops.aten.add.Tensor:
            self.seen = _uses(args[0])
        return func(*args, **(kwargs or {}))


@cache
def uses_when_only() -> tuple[int, int]:
    """The reference counts that this version of torch shows of a gradient that only its buffer holds.

    To be asked for once before a dispatch mode watches: autograd records nothing below one.
    """
    x = torch.ones(4, device="meta", requires_grad=True)
    y = x * 2
    with _Counting() as counting:
        (y * y).sum().backward()
    if counting.seen is None:
        raise RuntimeError("autograd no longer adds two gradients with aten.add")
    return counting.seen
