"""What clipping and an optimizer's step allocate while every gradient is alive."""

from __future__ import annotations

from collections import Counter
from functools import reduce
from typing import TYPE_CHECKING

from calculator.beside import Beside, Staying
from calculator.state import Stored
from calculator.step import adafactor
from calculator.step.operations import promoted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.dtype import DType
    from calculator.optimizers import Optimizer


def temporaries(trained: tuple[Stored, ...], optimizer: Optimizer, max_grad_norm: float | None) -> tuple[Staying, ...]:
    """The larger of the two: they do not coexist."""
    candidates = [_foreach(trained, optimizer) if optimizer.storage != "factored" else adafactor.temporaries(trained)]
    if max_grad_norm:
        candidates.append(_clipping(trained))
    return max(candidates, key=_bytes)


def _bytes(tensors: Iterable[Staying]) -> int:
    return sum(tensor.bytes for tensor in tensors)


def _foreach(trained: tuple[Stored, ...], optimizer: Optimizer) -> tuple[Staying, ...]:
    """Whole-list temporaries of a foreach step (torch/optim/adam.py, adagrad.py, rmsprop.py).

    It runs one dtype after the other, of which there are two at most, and a list keeps its name until the next dtype's
    is made. So the second's first list meets all of the first's, its last list the first's last: most is alive where
    the larger dtype has all of its lists and the other one.
    """
    sizes: Counter[DType] = Counter()
    for tensor in trained:
        sizes[tensor.dtype] += tensor.bytes
    larger = max(sizes, key=lambda dtype: sizes[dtype], default=None)
    times = optimizer.temporaries
    if not times:
        return ()
    name = f"{optimizer.name} temporary"
    if len(sizes) == 1 and not optimizer.early:
        return (Beside(trained, (name,), "workspace", times),)
    made = [_as_made(t, name) for t in trained if optimizer.early and t.made]
    counts = [(t, (times if t.dtype == larger else 1) - bool(optimizer.early and t.made)) for t in trained]
    return (*made, *[Beside((t,), (name,), "workspace", count) for t, count in counts if count])


def _as_made(tensor: Stored, name: str) -> Stored:
    """The first list's tensor: a function of the state, and so of its dtype."""
    dtype = tensor.made or tensor.dtype
    name = f"{tensor.name}: {name}"
    return Stored(name=name, shape=tensor.shape, dtype=dtype, component="workspace", count=tensor.count)


def _clipping(trained: tuple[Stored, ...]) -> tuple[Staying, ...]:
    """A norm for each gradient, the norms stacked, and theirs; then, where that is more, what the factor is made of.

    Source: torch/nn/utils/clip_grad.py, foreach.
    """
    if not trained:
        return ()
    count = sum(tensor.count for tensor in trained)
    dtype = reduce(promoted, (tensor.dtype for tensor in trained))
    norm = Stored(name="gradient norm", shape=(), dtype=dtype, component="workspace", count=count)
    stacked = Stored(name="gradient norms, stacked", shape=(count,), dtype=dtype, component="workspace")
    total, *factor = (
        Stored(name=name, shape=(), dtype=dtype, component="workspace")
        for name in ("total norm", "total norm, kept from 0", "its reciprocal", "clipping's factor")
    )
    return max((norm, stacked, total), (total, *factor), key=_bytes)
