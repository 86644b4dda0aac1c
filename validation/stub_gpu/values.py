"""Decisions of the libraries that depend on values, which a stub does not have."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from validation.stub_gpu.library import on_stub


def one_sequence_per_row() -> AbstractContextManager[Any]:
    """On a stub, let transformers find one sequence in each row, as it does for rows that are not packed.

    It reads the result of a kernel, which is 0 there and would mean that rows are packed. Elsewhere this changes
    nothing.
    """
    if not on_stub():
        return nullcontext()
    return mock.patch("transformers.masking_utils.find_packed_sequence_indices", _no_indices)


def _no_indices(*_args: Any, **_kwargs: Any) -> None:
    """Find no packed rows. A mock would keep the tensors that it is called with."""


def received_as_sent() -> AbstractContextManager[Any]:
    """On a stub, let a process read from the GPU what it has sent itself. Elsewhere this changes nothing.

    DistributedDataParallel sends the order of its buckets to the other ranks and reads what it receives.
    """
    return _Kept() if on_stub() else nullcontext()


class _Kept(TorchDispatchMode):
    """Copies from the GPU leave the values of host tensors."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        if func is torch.ops.aten.copy_.default and args[1].is_cuda and not args[0].is_cuda:
            return args[0]
        return func(*args, **(kwargs or {}))
