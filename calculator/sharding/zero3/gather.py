"""An all-gather of stage 3, and the buffers that it allocates.

Source: deepspeed/runtime/zero/partition_parameters.py, AllGatherHandle and AllGatherCoalescedHandle.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE, allocated
from calculator.sharding.zero3.parameters import GATHERED, PARTITION, Storage

if TYPE_CHECKING:
    from calculator.sharding.zero3.parameters import Live, Partitioned
    from calculator.sharding.zero3.sizes import Sizes


_DTYPE, _DTYPE_AND_ORDER = attrgetter("dtype"), attrgetter("dtype", "order")


class Gather:
    """An all-gather of one parameter into its own buffer, or of several into one that is copied out at the end."""

    __slots__ = ("buffers", "is_done", "live", "parameters", "remaining")

    def __init__(self, live: Live, parameters: list[Partitioned], sizes: Sizes) -> None:
        if len(parameters) > 1:
            parameters = sorted(parameters, key=_DTYPE_AND_ORDER)
        self.live, self.parameters = live, parameters
        self.remaining, self.is_done = len(parameters), False
        self.buffers: list[Storage] = []
        if len(parameters) == 1:
            (only,) = parameters
            only.storage = Storage(live, only.with_padding, only.represents)
            upload(live, parameters, sizes)
            return
        for dtype in dict.fromkeys(map(_DTYPE, parameters)):
            own = [parameter for parameter in parameters if parameter.dtype == dtype]
            self.buffers.append(Storage(live, allocated(sum(map(PARTITION, own)) * sizes.ranks, ITEMSIZE[dtype])))
            upload(live, own, sizes)

    def wait(self) -> None:
        """Make the gathered parameters available."""
        if self.is_done:
            return
        self.is_done = True
        for parameter in self.parameters:
            if self.buffers:
                parameter.storage = Storage(self.live, parameter.whole, parameter.represents)
            parameter.state = GATHERED

    def take(self) -> None:
        """Make the gathered parameters available, and drop the reference of one of them."""
        if not self.is_done:
            self.wait()
        self.remaining -= 1
        if not self.remaining and self.buffers:
            self._free()

    def drop(self) -> None:
        """Drop the reference of one parameter. The buffers live as long as any parameter refers to them."""
        self.remaining -= 1
        if not self.remaining:
            self._free()

    def _free(self) -> None:
        for buffer in self.buffers:
            buffer.drop()


def upload(live: Live, parameters: list[Partitioned], sizes: Sizes) -> None:
    """Copy offloaded partitions to the GPU, where the all-gather reads them."""
    if not sizes.offloads_parameters:
        return
    copied = sum(
        allocated(parameter.partition, ITEMSIZE[parameter.dtype]) * (1 if live.in_copies else parameter.represents)
        for parameter in parameters
    )
    live.add(copied)
    live.free(copied)
