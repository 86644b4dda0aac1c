"""What clipping and an optimizer's step allocate while every gradient is alive."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from calculator.state import Stored
from calculator.step import adafactor
from calculator.step.operations import promoted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.optimizers import Optimizer


def temporaries(trained: tuple[Stored, ...], optimizer: Optimizer, max_grad_norm: float | None) -> tuple[Stored, ...]:
    """The larger of the two: they do not coexist."""
    candidates = [_foreach(trained, optimizer) if optimizer.storage != "factored" else adafactor.temporaries(trained)]
    if max_grad_norm:
        candidates.append(_clipping(trained))
    return max(candidates, key=_bytes)


def _bytes(tensors: Iterable[Stored]) -> int:
    return sum(tensor.bytes for tensor in tensors)


def _foreach(trained: tuple[Stored, ...], optimizer: Optimizer) -> tuple[Stored, ...]:
    """Whole-list temporaries of a foreach step (torch/optim/adam.py, _multi_tensor_adam).

    It runs one dtype after the other, and a list keeps its name until the next dtype's is made: with two dtypes, which
    is as many as there are, both coexist.
    """
    return tuple(
        Stored(
            name=f"{tensor.name}: {optimizer.name} temporary",
            shape=tensor.shape,
            dtype=tensor.dtype,
            component="workspace",
            count=tensor.count * optimizer.temporaries,
        )
        for tensor in trained
        if optimizer.temporaries
    )


def _clipping(trained: tuple[Stored, ...]) -> tuple[Stored, ...]:
    """A norm for each gradient, the norms stacked, and theirs (torch/nn/utils/clip_grad.py, foreach)."""
    if not trained:
        return ()
    count = sum(tensor.count for tensor in trained)
    dtype = reduce(promoted, (tensor.dtype for tensor in trained))
    norm = Stored(name="gradient norm", shape=(), dtype=dtype, component="workspace", count=count)
    stacked = Stored(name="gradient norms, stacked", shape=(count,), dtype=dtype, component="workspace")
    total = Stored(name="total norm", shape=(), dtype=dtype, component="workspace")
    return norm, stacked, total
