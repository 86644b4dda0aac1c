"""The allocations of one rank's step under stages 1 and 2 with offload_optimizer in order, for replays.

Source: deepspeed/runtime/zero/stage_1_and_2.py, copy_grads_in_partition, set_norm_for_param_grad_in_gpu and
async_inplace_copy_grad_to_fp32_buffer_from_gpu.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE, allocated
from calculator.training_step.zero.offload import STEP_SCALARS
from calculator.training_step.zero.replayed import FlatStep

if TYPE_CHECKING:
    from calculator.engine.tape import Tape
    from calculator.sharding.zero.state import FlatState

#: The names of what is computed of a gradient.
FOR_NORM, FOR_HOST, NORM, FLAG = "gradient for its norm", "gradient for the host", "norm of a gradient", "flags"

#: The numbers that an extreme element and its test allocate.
OF_FINITE = 5


class OffloadedStep(FlatStep):
    """A step whose gradients are copied to the host one by one, with their norms; the update runs there."""

    def __init__(self, state: FlatState, tape: Tape, rank: int) -> None:
        #: The rows of the norms of this rank's gradients.
        self._norms: list[int] = []
        super().__init__(state, tape, rank)

    def _set_aside(self, row: int | None, *, is_whole: bool) -> int | None:
        """Clone a gradient that is larger than the bucket; its own memory is freed."""
        if row is None:
            return None
        events = self.events
        clone = events.allocate("gradient, cloned", events.rows[row][4], self._plan.dtype, "gradients")
        if is_whole:
            events.free([row])
        return clone

    def _take_own(self) -> None:
        """Compute the norm of each gradient of this rank, and copy it to the host in float32."""
        if not self._is_last:
            return
        events, stream = self.events, self._stream
        for place in self._bucket:
            for rank, elements in self._plan.partitions.slices(place):
                if rank != self._rank:
                    continue
                wide = events.allocate_elements(FOR_NORM, elements, "float64", stream=stream)
                self._norms.append(events.allocate_elements(NORM, 1, "float64", stream=stream))
                events.free([wide])
                self._search(stream)
                if self._plan.dtype != "float32":
                    events.free([events.allocate_elements(FOR_HOST, elements, "float32", "gradients", stream)])

    def _search(self, stream: int) -> None:
        """Search a gradient for infinities: its largest and smallest element, and whether both are finite.

        Source: deepspeed/runtime/utils.py, has_inf_or_nan; PyTorch, torch.isfinite.
        """
        events, are_finite = self.events, list[int]()
        for _ in range(2):
            first, *others = self._numbers(OF_FINITE, stream)
            are_finite.append(first)
            events.free(others)
        extremes = self._numbers(1, stream)
        events.free(are_finite)
        flags = self._numbers(1, stream)
        events.free([*extremes, *flags])

    def _numbers(self, count: int, stream: int = 0) -> list[int]:
        size = allocated(1, ITEMSIZE["float32"])
        return [self.events.allocate(FLAG, size, "float32", stream=stream) for _ in range(count)]

    def _end_reductions(self, *, is_last: bool) -> None:
        """Reduce what is left after the backward pass, and free what is left of large gradients."""
        super()._end_reductions(is_last=is_last)
        if is_last:
            self.events.free(self._kept)

    def _update(self) -> None:
        """The sum of the norms."""
        self.events.free([*self._numbers(STEP_SCALARS), *self._norms])
