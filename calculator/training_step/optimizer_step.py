"""What clipping and an optimizer's step allocate while every gradient is alive."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from calculator.engine.operations import result_type
from calculator.resident.per_parameter import PerParameter, ResidentTensors
from calculator.resident.tensors import ResidentTensor
from calculator.training_step import adafactor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from calculator.resident.optimizers import Optimizer


def temporaries(
    trained: tuple[ResidentTensor, ...], optimizer: Optimizer, max_grad_norm: float | None
) -> tuple[ResidentTensors, ...]:
    """The larger of the two: they do not coexist."""
    candidates = [_foreach(trained, optimizer) if optimizer.storage != "factored" else adafactor.temporaries(trained)]
    if max_grad_norm:
        candidates.append(_clipping(trained))
    return max(candidates, key=_bytes)


def _bytes(tensors: Iterable[ResidentTensors]) -> int:
    return sum(tensor.bytes for tensor in tensors)


def _foreach(trained: tuple[ResidentTensor, ...], optimizer: Optimizer) -> tuple[ResidentTensors, ...]:
    """Whole-list temporaries of a foreach step (torch/optim/adam.py, adagrad.py, rmsprop.py).

    It runs one dtype after the other, of which there are two at most, and a list keeps its name until the next dtype's
    is made: while one of the second's is, it meets those before it and the first's from its own number on. The dtype
    that parameters come to last runs first, as an unordered_map gives its newest key first (ATen/native/ForeachUtils.h,
    _group_tensors_by_first_tensors_device_and_dtype).
    """
    lists = range(optimizer.temporaries)
    if not lists or not trained:
        return ()
    dtypes = [*dict.fromkeys([tensor.dtype for tensor in trained])]
    if len(dtypes) == 1:
        return tuple(_lists(trained, optimizer, lists))
    second, first = ([tensor for tensor in trained if tensor.dtype == dtype] for dtype in dtypes)
    met = [(*_lists(first, optimizer, lists[n:]), *_lists(second, optimizer, lists[: n + 1])) for n in lists]
    return max(met, key=_bytes)


def _lists(group: Sequence[ResidentTensor], optimizer: Optimizer, numbers: range) -> Iterator[ResidentTensors]:
    """Some of a dtype's lists; the first is a function of the states, and so of the dtype that these were made in."""
    name = f"{optimizer.name} temporary"
    made = [tensor for tensor in group if tensor.dtype_at_optimizer_init] if optimizer.early and 0 in numbers else []
    yield from (_as_made(tensor, name) for tensor in made)
    if made:
        group = [tensor for tensor in group if not tensor.dtype_at_optimizer_init]
        yield PerParameter(made, (name,), "workspace", len(numbers) - 1)
    yield PerParameter(group, (name,), "workspace", len(numbers))


def _as_made(tensor: ResidentTensor, name: str) -> ResidentTensor:
    """The first list's tensor: a function of the state, and so of its dtype."""
    dtype = tensor.dtype_at_optimizer_init or tensor.dtype
    name = f"{tensor.name}: {name}"
    return ResidentTensor(name=name, shape=tensor.shape, dtype=dtype, component="workspace", count=tensor.count)


def _clipping(trained: tuple[ResidentTensor, ...]) -> tuple[ResidentTensors, ...]:
    """A norm for each gradient, the norms stacked, and theirs; then, where that is more, what the factor is made of.

    Source: torch/nn/utils/clip_grad.py, foreach.
    """
    if not trained:
        return ()
    count = sum(tensor.count for tensor in trained)
    dtype = reduce(result_type, (tensor.dtype for tensor in trained))
    norm = ResidentTensor(name="gradient norm", shape=(), dtype=dtype, component="workspace", count=count)
    stacked = ResidentTensor(name="gradient norms, stacked", shape=(count,), dtype=dtype, component="workspace")
    total, *factor = (
        ResidentTensor(name=name, shape=(), dtype=dtype, component="workspace")
        for name in ("total norm", "total norm, kept from 0", "its reciprocal", "clipping's factor")
    )
    return max((norm, stacked, total), (total, *factor), key=_bytes)
