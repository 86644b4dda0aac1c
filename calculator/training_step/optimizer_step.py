"""Temporaries of gradient clipping and of the optimizer's step, while every gradient is alive."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from operator import attrgetter
from typing import TYPE_CHECKING

from calculator.common.total import total_bytes
from calculator.devices.kernels import Kernels
from calculator.engine.result_types import result_type
from calculator.resident.per_parameter import PerParameter, ResidentTensors
from calculator.resident.tensor import ResidentTensor, new_tensor
from calculator.training_step import foreach_norm
from calculator.training_step.updates import loop
from calculator.training_step.updates.loops import LOOPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.common.dtype import DType
    from calculator.resident.optimizer import Optimizer

_DTYPE = attrgetter("dtype")

#: The kernels of a trace.
ON_META = Kernels()

#: The clipping factor and its terms.
_FACTOR = ("total norm, kept from 0", "its reciprocal", "clipping's factor")
#: The terms if the total norm of a rank is reduced first.
_REDUCED = ("total norm, squared", "its sum over all ranks", "the root", "total norm, kept from 0")


def temporaries(
    groups: Sequence[tuple[ResidentTensor, ...]],
    optimizer: Optimizer,
    *,
    clips: bool,
    keeps_norm: bool,
    norm_vectors: int = 1,
    reduces_total_norm: bool = False,
    returns_norm: bool = False,
    kernels: Kernels = ON_META,
) -> tuple[ResidentTensors, ...]:
    """Return the temporaries of clipping or of the optimizer's step, whichever are larger.

    The two are not alive together. The step runs one parameter group after the other.

    `keeps_norm`: whether the total norm is a resident tensor. `norm_vectors`: the number of tensors that have one norm
    for each gradient. `reduces_total_norm`: whether ranks reduce the total norm, and not that of each gradient.
    `returns_norm`: whether the loop refers to the norm of the clipped gradients while the optimizer steps.
    `kernels`: the kernels that run.
    """
    trained = tuple([tensor for group in groups for tensor in group])
    candidates = step_candidates(groups, trained, optimizer, kernels)
    if clips and returns_norm:
        candidates = [(*candidate, total_norm()) for candidate in candidates]
    if clips:
        factor = _REDUCED if reduces_total_norm else _FACTOR
        candidates.append(clipping(trained, keeps_norm=keeps_norm, vectors=norm_vectors, factor=factor))
    if clips and kernels.norms_of_chunks and trained:
        candidates.append(foreach_norm.at_norms(trained))
    return max(candidates, key=total_bytes)


def step_candidates(
    groups: Sequence[tuple[ResidentTensor, ...]],
    trained: tuple[ResidentTensor, ...],
    optimizer: Optimizer,
    kernels: Kernels,
) -> list[tuple[ResidentTensors, ...]]:
    """Return the live tensors of the optimizer's step at each moment that may be its peak."""
    if optimizer.projection is not None:
        in_order = sorted(trained, key=lambda tensor: tensor.name in optimizer.targets)
        return [loop.temporaries(LOOPS[optimizer.name], in_order, optimizer, kernels)]
    if optimizer.others is not None:
        targeted = tuple(tensor for tensor in trained if tensor.name in optimizer.targets)
        others = tuple(tensor for tensor in trained if tensor.name not in optimizer.targets)
        return [
            *step_candidates([targeted], targeted, replace(optimizer, others=None), kernels),
            _foreach(others, optimizer.others),
        ]
    if optimizer.storage == "host":
        return [loop.temporaries(LOOPS[optimizer.name], group, optimizer, kernels) for group in groups]
    if optimizer.name in LOOPS:
        return [loop.temporaries(LOOPS[optimizer.name], trained, optimizer, kernels)]
    if optimizer.keeps_temporaries:
        return [tuple(tensor for group in groups for tensor in _foreach(group, optimizer))]
    return [_foreach(group, optimizer) for group in groups]


def _foreach(trained: tuple[ResidentTensor, ...], optimizer: Optimizer) -> tuple[ResidentTensors, ...]:
    """Return the temporary lists of a foreach step (torch/optim/adam.py, adagrad.py, rmsprop.py).

    The step runs one dtype after the other. There are at most two dtypes. A variable keeps its list until the next
    dtype assigns it. So when list n of the second dtype is allocated, its lists 0 to n and the first dtype's lists from
    n on are alive. The dtype that occurs last among the parameters runs first, because an unordered_map yields its
    newest key first (ATen/native/ForeachUtils.h, _group_tensors_by_first_tensors_device_and_dtype).
    """
    lists = range(optimizer.temporaries)
    if not lists or not trained:
        return ()
    dtypes = [*dict.fromkeys(map(_DTYPE, trained))]
    if len(dtypes) == 1:
        return _lists(trained, optimizer, lists)
    second, first = ([tensor for tensor in trained if tensor.dtype == dtype] for dtype in dtypes)
    alive = [(*_lists(first, optimizer, lists[n:]), *_lists(second, optimizer, lists[: n + 1])) for n in lists]
    return max(alive, key=total_bytes)


def _lists(group: Sequence[ResidentTensor], optimizer: Optimizer, numbers: range) -> tuple[ResidentTensors, ...]:
    """Return some of the lists of one dtype.

    The first list is computed from the optimizer's states, so it has their dtype.
    """
    name = f"{optimizer.name} temporary"
    recast = [tensor for tensor in group if tensor.dtype_at_optimizer_init] if optimizer.early and 0 in numbers else []
    if not recast:
        return (PerParameter(group, (name,), "workspace", len(numbers)),)
    others = [tensor for tensor in group if not tensor.dtype_at_optimizer_init]
    return (
        *[_like_state(tensor, name) for tensor in recast],
        PerParameter(recast, (name,), "workspace", len(numbers) - 1),
        PerParameter(others, (name,), "workspace", len(numbers)),
    )


def _like_state(tensor: ResidentTensor, name: str) -> ResidentTensor:
    """Return a tensor of the first list, in the dtype of the optimizer's state."""
    dtype = tensor.dtype_at_optimizer_init or tensor.dtype
    name = f"{tensor.name}: {name}"
    return new_tensor(name=name, shape=tensor.shape, dtype=dtype, component="workspace", count=tensor.count)


def total_norm() -> ResidentTensor:
    """Return the norm that the loop refers to while the optimizer steps."""
    return _scalar("total norm", "float32")


def clipping(
    trained: tuple[ResidentTensor, ...], *, keeps_norm: bool, vectors: int, factor: tuple[str, ...] = _FACTOR
) -> tuple[ResidentTensors, ...]:
    """Return the norms of all gradients, stacked, and the total norm, or the clipping factor and its terms if larger.

    Source: torch/nn/utils/clip_grad.py, foreach.
    """
    if not trained:
        return ()
    count = sum(map(attrgetter("count"), trained))
    dtype = reduce(result_type, dict.fromkeys(map(_DTYPE, trained)))
    # On shards the total norm is computed later. The norm that the trainer keeps from the previous step counts as one.
    norms = count - (keeps_norm and vectors > 1)
    norm = new_tensor(name="gradient norm", shape=(), dtype=dtype, component="workspace", count=norms)
    norms_at_end = (norm,) if norms else ()
    stacked = new_tensor(
        name="gradient norms, stacked", shape=(count,), dtype=dtype, component="workspace", count=vectors
    )
    totals = () if keeps_norm else (_scalar("total norm", dtype),)
    while_stacked = (*norms_at_end, stacked, *totals) if vectors == 1 else (*norms_at_end, stacked)
    if norms > len(factor):
        return while_stacked  # a scalar takes as much memory as another
    return max(while_stacked, (*totals, *(_scalar(name, dtype) for name in factor)), key=total_bytes)


def _scalar(name: str, dtype: DType) -> ResidentTensor:
    return new_tensor(name=name, shape=(), dtype=dtype, component="workspace")
