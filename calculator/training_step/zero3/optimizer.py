"""The optimizer's step of stage 3: norms, then the update of one sub-group after the other.

Source: deepspeed/runtime/zero/stage3.py, step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.dtype import ALLOCATION_ROUNDING, ITEMSIZE, allocated
from calculator.sharding.zero.state import row
from calculator.training_step.optimizer_step import temporaries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensor import ResidentTensor
    from calculator.sharding.zero3.state import PartitionedState

#: The number of scalars that are alive while the total norm is checked, in addition to the gradients' norms.
NORM_SCALARS = 7
#: The number of norms that are alive while a sub-group is updated, in addition to one per sub-group.
KEPT_SCALARS = 2
#: The number of scalars that are alive while the clipping factor is computed and applied.
CLIP_SCALARS = 4

#: The number of scalars that are alive while the norms of offloaded gradients are added up, in addition to the norms.
OFFLOADED_SCALARS = 6

#: The tensors alive at a moment of the step in addition to what stays on the device.
Alive = tuple["ResidentTensors", ...]


def step_peak(state: PartitionedState, gathered: int, kept: int, persistent: int) -> Alive:
    """Return the tensors alive at the moment with the most bytes.

    `gathered` are the bytes that the passes left gathered, `kept` the part of them that stays, and `persistent` the
    bytes that are gathered when the step ends.
    """
    if state.sizes.offloads_optimizer:
        return max(_offloaded(state, gathered, kept, persistent), key=_bytes)
    after = (*_gathered(state, persistent), _scalars(len(state.sub_groups) + KEPT_SCALARS))
    throughout = _gathered(state, kept)
    moments = ((*throughout, *moment) for moment in _moments(state))
    return max((_gathered(state, gathered), *moments, after), key=_bytes)


def _offloaded(state: PartitionedState, gathered: int, kept: int, persistent: int) -> Iterator[Alive]:
    """Yield the moments of a step that updates partitions on the host.

    The norms of gradients stay on the GPU until it ends. Parameters that the batch does not use have none.
    """
    unused = {tensor.name for tensor in state.tensors if not tensor.in_graph}
    norms = sum(parameter.key.name not in unused for group in state.sub_groups for parameter in group)
    yield *_gathered(state, gathered), _scalars(norms)
    yield *_gathered(state, kept), _scalars(norms + OFFLOADED_SCALARS)
    yield _gathered(state, persistent)


def _bytes(alive: Alive) -> int:
    return sum([tensor.bytes for tensor in alive])


def _scalars(count: int) -> ResidentTensor:
    return row("norms and flags", 1, "", "float32", count=count)


def _gathered(state: PartitionedState, size: int) -> Alive:
    if not size:
        return ()
    elements = size // ITEMSIZE[state.dtype]
    return (row("gathered weights", elements, "gathered parameters", state.dtype, "base_weights"),)


def _moments(state: PartitionedState) -> Iterator[Alive]:
    for number, sizes in enumerate(state.sizes_of_parts):
        # Among partitions of one size, the last one is copied while the most norms are alive.
        from_last = sizes[::-1]
        last = [len(sizes) - 1 - from_last.index(size) for size in {*sizes}]
        at = max(last, key=lambda at: (allocated(sizes[at], 8) + ALLOCATION_ROUNDING * at, -at))
        yield row("gradient in float64", sizes[at], "gradient", "float64"), _scalars(number + at + 1)
        yield row("norms, stacked", len(sizes), "gradients", "float64", count=2), _scalars(number + len(sizes))
        yield (_scalars(number + len(sizes) + NORM_SCALARS),)
    for number in range(len(state.sub_groups)):
        yield from _update(state, number)


def _update(state: PartitionedState, number: int) -> Iterator[Alive]:
    """Copy the gradients of a sub-group to one float32 tensor, clip and update.

    A single gradient is not flattened first. A single float32 gradient is not copied at all.
    """
    several = len(state.sub_groups[number]) > 1
    flat = (state.like_sub_group(number, "flat gradients", state.dtype),) if several else ()
    master = state.like_sub_group(number, "float32 gradients")
    numbers = _scalars(len(state.sub_groups) + KEPT_SCALARS)
    updated = (master,) if state.dtype != "float32" else flat
    yield *flat, *(updated if updated is not flat else ()), numbers
    if state.prepared.training.max_grad_norm:
        yield *updated, numbers, _scalars(CLIP_SCALARS)
    yield *updated, numbers, *temporaries([(master,)], state.optimizer, clips=False, keeps_norm=False)
