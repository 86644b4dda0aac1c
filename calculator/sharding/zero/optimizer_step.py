"""The optimizer's step of stages 1 and 2 on one rank: norms, the float32 gradients of its partition, the update.

Source: deepspeed/runtime/zero/stage_1_and_2.py, step; deepspeed/runtime/utils.py, has_inf_or_nan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import named
from calculator.common.dtype import ITEMSIZE, allocated
from calculator.resident.tensors import ResidentTensor
from calculator.sharding.zero.state import PREFIX, row
from calculator.training_step.optimizer_step import temporaries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.resident.per_parameter import ResidentTensors
    from calculator.sharding.zero.state import FlatState

#: The numbers alive at once while the first gradient is searched for infinities.
OVERFLOW_SCALARS = 7
#: The same while the total norm is searched, besides the gradients' norms.
NORM_SCALARS = 5
#: The global norm twice: the one that stays, and the one that clips.
KEPT_SCALARS = 2
#: The numbers alive at once while the clipping factor is computed and applied.
CLIP_SCALARS = 4


class Moment(NamedTuple):
    """A moment of the step: what is alive besides what stays on the device; the gradients of the partition included."""

    tensors: tuple[ResidentTensors, ...]

    @property
    def bytes(self) -> int:
        """The bytes of all tensors."""
        return sum([tensor.bytes for tensor in self.tensors])


class OptimizerStep:
    """The step of one rank. Its gradients are in one buffer, followed by zeros up to the partition's end."""

    def __init__(self, state: FlatState, rank: int, gradients: tuple[ResidentTensor, ...]) -> None:
        self._state, self._rank, self._gradients = state, rank, gradients

    @property
    def fullest(self) -> Moment:
        """The moment with the most bytes."""
        return max(self._moments(), key=lambda moment: moment.bytes)

    def padding(self, first: int = 0) -> tuple[ResidentTensor, ...]:
        """The zeros after the gradients of each group, from one group on."""
        groups = self._state.partitions.groups
        sizes = [group.padding(self._rank) for group in groups[first:]]
        return tuple(row("padding of gradients", size, "padding", self._state.dtype, "gradients") for size in sizes if size)

    def _moments(self) -> Iterator[Moment]:
        before = (*self._gradients, *self.padding())
        if self._state.dtype != "float32":
            yield Moment((*before, _scalars(OVERFLOW_SCALARS)))
        yield from self._norms(before)
        for group in range(len(self._state.partitions.groups)):
            yield from self._update(group)

    def _norms(self, before: tuple[ResidentTensor, ...]) -> Iterator[Moment]:
        for number, group in enumerate(self._state.partitions.groups):
            slices = group.slices(self._rank)
            done = number
            for size in slices:
                done += 1
                copy = row("gradient in float64", size, "gradient", "float64")
                yield Moment((*before, copy, _scalars(done)))
            stacked = row("norms, stacked", len(slices), "gradients", "float64", count=2)
            yield Moment((*before, stacked, _scalars(done)))
            yield Moment((*before, _scalars(done + NORM_SCALARS)))

    def _update(self, group: int) -> Iterator[Moment]:
        state, last = self._state, group == len(self._state.partitions.groups) - 1
        parts = len(state.partitions.groups[group].slices(self._rank)) + bool(
            state.partitions.groups[group].padding(self._rank)
        )
        dtype = state.dtype
        flat = row("flat gradients", state.partition(group), "", dtype)
        flat = ResidentTensor(
            name=PREFIX + "flat gradients", shape=(state.partition(group),), dtype=dtype, component="workspace", base=False
        )
        master = ResidentTensor(
            name=PREFIX + "float32 gradients",
            shape=(state.partition(group),),
            dtype="float32",
            component="workspace",
            base=False,
            trained=True,
        )
        numbers = _scalars(KEPT_SCALARS)
        before = (*self._gradients, *self.padding(group))
        copied = (flat,) if parts > 1 else ()
        in_float32 = (master,) if dtype != "float32" else ()
        yield Moment((*before, *copied, *in_float32, numbers))
        view = not copied and not in_float32
        rest = (*(() if last and not view else self._gradients), *self.padding(group + 1))
        own = (*rest, *(in_float32 or copied), numbers)
        if state.prepared.training.max_grad_norm:
            yield Moment((*own, _scalars(CLIP_SCALARS)))
        yield Moment((*own, *temporaries([(master,)], state.optimizer, clips=False, keeps_norm=False)))


def _scalars(count: int) -> ResidentTensor:
    return row("norms and flags", 1, "", "float32", count=count)
