"""Accumulation of two gradients: autograd adds in place on CUDA, but out of place under a dispatch mode.

References:
    torch/csrc/autograd/input_buffer.cpp, `accumulate` and `can_accumulate_inplace`: in place if the buffer has the
    only reference to a dense tensor and to its storage. `at::isTensorSubclassLike` is true under a dispatch mode, so
    without this module the trace would add out of place.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from types import FrameType


#: Functions on the stack between the engine's call and this module, including torch's decorators of a dispatch mode.
_BETWEEN = frozenset({"_called_by_engine", "adds_in_place", "__torch_dispatch__", "_fn", "inner"})


def adds_in_place(first: torch.Tensor, second: object, *_: object) -> bool:
    """Return whether CUDA would add in place. It does to a tensor's gradient to which nothing else refers."""
    if torch.is_grad_enabled() or not isinstance(second, torch.Tensor) or first.shape != second.shape:
        return False
    dense = not first.is_sparse and torch.ops.aten.is_non_overlapping_and_dense(first)
    return _called_by_engine() and dense and _reference_counts(first) == unshared_reference_counts()


def _called_by_engine() -> bool:
    """Return whether the autograd engine itself adds, and not a Python function of the backward pass."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name in _BETWEEN:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name == "_engine_run_backward"


def _reference_counts(tensor: torch.Tensor) -> tuple[int, int]:
    return tensor._use_count(), torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)


class _CountReferences(TorchDispatchMode):
    counts: tuple[int, int] | None = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        if func is torch.ops.aten.add.Tensor:
            self.counts = _reference_counts(args[0])
        return func(*args, **(kwargs or {}))


@cache
def unshared_reference_counts() -> tuple[int, int]:
    """Return the reference counts, in this version of torch, of a gradient that only its buffer refers to.

    Call this once before a dispatch mode is active, because autograd records nothing below one.
    """
    x = torch.ones(4, device="meta", requires_grad=True)
    y = x * 2
    with _CountReferences() as mode:
        (y * y).sum().backward()
    if mode.counts is None:
        raise RuntimeError("autograd no longer adds two gradients with aten.add")
    return mode.counts
