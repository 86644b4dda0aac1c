"""The optimizer's step of stages 1 and 2 on one rank: norms, float32 gradients of its partition, and the update.

Source: deepspeed/runtime/zero/stage_1_and_2.py, step; deepspeed/runtime/utils.py, has_inf_or_nan.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from calculator.sharding.zero.state import row
from calculator.training_step.optimizer_step import temporaries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.resident.optimizer import Optimizer
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensor import ResidentTensor
    from calculator.sharding.zero.state import FlatState

#: The number of scalars that are alive while the first gradient is checked for infinities.
OVERFLOW_SCALARS = 7
#: The number of scalars that are alive while the total norm is checked, in addition to the gradients' norms.
NORM_SCALARS = 5
#: The number of scalars for the global norm: the one that stays, and the one that clips.
KEPT_SCALARS = 2
#: The number of scalars that are alive while the clipping factor is computed and applied.
CLIP_SCALARS = 4

#: The tensors alive at a moment of the step in addition to what stays on the device, with the partition's gradients.
Alive = tuple["ResidentTensors", ...]


class OptimizerStep:
    """The optimizer's step of one rank.

    Its gradients are in one buffer. Zeros replace gradients that the step does not produce, and pad the partition.
    """

    def __init__(self, state: FlatState, rank: int, gradients: tuple[ResidentTensor, ...]) -> None:
        self._state, self._gradients, self._last = state, gradients, state.last_reduced(rank)
        #: By group: the number of gradients in the partition, and the index and elements of the gradient whose float64
        #: copy is alive at the peak moment.
        self._owned = [(owned.parameters, owned.largest) for owned in state.owned[rank]]
        #: By group: the zeros that replace gradients, and the zeros that pad the partition.
        self._zeros, self._padding = state.zeros_of(rank), state.padding_of(rank)

    @property
    def at_peak(self) -> Alive:
        """The tensors alive at the moment with the most bytes."""
        return max(self._moments(), key=_bytes)

    def _moments(self) -> Iterator[Alive]:
        before = (*self._gradients, *self._zeros_from(0))
        if self._state.dtype != "float32":
            yield *before, _scalars(OVERFLOW_SCALARS)
        for number, (parameters, largest) in enumerate(self._owned):
            norms = number + parameters
            if largest is not None:
                at, size = largest
                copied = row("gradient in float64", size, "gradient", "float64")
                yield *before, copied, _scalars(number + at + 1)
            yield *before, row("norms, stacked", parameters, "gradients", "float64", count=2), _scalars(norms)
            yield *before, _scalars(norms + NORM_SCALARS)
        for group in range(len(self._owned)):
            yield from self._update(group)

    def _zeros_from(self, first: int) -> tuple[ResidentTensor, ...]:
        """Return all zeros of a group and of the groups after it."""
        return tuple([tensor for tensor in (*self._zeros[first:], *self._padding[first:]) if tensor is not None])

    def _update(self, group: int) -> Iterator[Alive]:
        """Copy the gradients of a group's partition to one float32 tensor, free them, clip and update.

        A single gradient is not flattened first. A single float32 gradient is not copied at all.
        """
        state = self._state
        several = self._owned[group][0] + (self._padding[group] is not None) > 1
        flat = (state.like_partition(group, "flat gradients", state.dtype),) if several else ()
        master = state.like_partition(group, "float32 gradients")
        updated = (master,) if state.dtype != "float32" else flat
        numbers = _scalars(KEPT_SCALARS)
        copied = (*flat, *updated) if updated is not flat else flat
        yield *(self._gradients if group <= self._last else ()), *self._zeros_from(group), *copied, numbers
        kept = self._zeros_from(group + 1 if updated else group)
        after = (*(self._gradients if group < self._last or not updated else ()), *kept, *updated, numbers)
        if state.prepared.training.max_grad_norm:
            yield *after, _scalars(CLIP_SCALARS)
        yield *after, *_temporaries(state.partitions.groups[group].partition, state.optimizer)


@lru_cache(maxsize=64)
def _temporaries(elements: int, optimizer: Optimizer) -> tuple[ResidentTensors, ...]:
    """Return the tensors that the update of a partition allocates."""
    master = row("float32 gradients", elements, "(trained parameters, padded) / count", "float32")
    return temporaries([(master,)], optimizer, clips=False, keeps_norm=False)


def _scalars(count: int) -> ResidentTensor:
    return row("norms and flags", 1, "", "float32", count=count)


def _bytes(alive: Alive) -> int:
    return sum([tensor.bytes for tensor in alive])
