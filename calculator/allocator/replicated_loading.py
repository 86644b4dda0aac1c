"""The allocations that load a model which DistributedDataParallel replicates.

DDP is made after the load. It broadcasts the parameters and buffers in flat tensors, of which two are alive at once.
Their blocks serve the steps, so that the rule for reserved memory leaves them out.

Source: torch/csrc/distributed/c10d/comm.cpp (broadcast_coalesced, BroadcastWork).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from calculator.allocator.loading import Loading, loading_options
from calculator.sharding.ddp_buffers import IN_FLIGHT, construction_broadcasts

if TYPE_CHECKING:
    from calculator.training_step.resident_state import ResidentState

NAME = "DistributedDataParallel: parameters and buffers, joined"


class ReplicatedLoading(Loading):
    """A model that is loaded onto the GPU as that of a single GPU is, and then broadcast."""

    __slots__ = ()

    def __init__(self, resident: ResidentState) -> None:
        prepared = resident.prepared
        super().__init__(resident.tensors, prepared.training, loading_options(prepared))
        in_flight: deque[int | None] = deque()
        for flat in (*construction_broadcasts(resident.prepared), *[None] * IN_FLIGHT):
            row = in_flight.popleft() if len(in_flight) == IN_FLIGHT else None
            if row is not None:
                self.add_events([~row])
            if flat is not None:
                self._request([NAME], [flat.bytes])
            in_flight.append(None if flat is None else len(self.sizes) - 1)
