"""The allocations that load a model which DistributedDataParallel replicates.

DDP is made after the load. It broadcasts the parameters and buffers in flat tensors, of which two are alive at once.

Source: torch/csrc/distributed/c10d/comm.cpp (broadcast_coalesced, BroadcastWork).
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import TYPE_CHECKING

from calculator.allocator.loading import Loading
from calculator.allocator.segments import segment_bytes
from calculator.sharding.ddp_buffers import IN_FLIGHT, of_construction

if TYPE_CHECKING:
    from calculator.methods.prepared_model import PreparedModel
    from calculator.training_step.resident_state import ResidentState

NAME = "DistributedDataParallel: parameters and buffers, joined"


def most_broadcast(prepared: PreparedModel) -> int:
    """Return the most bytes of segments for the flat tensors that are alive at once."""
    sizes = [0 if flat is None else segment_bytes(flat.bytes) for flat in of_construction(prepared)]
    return max(map(sum, pairwise((0, *sizes))), default=0)


class ReplicatedLoading(Loading):
    """A model that is loaded onto the GPU as that of a single GPU is, and then broadcast."""

    __slots__ = ()

    def __init__(self, resident: ResidentState) -> None:
        super().__init__(resident.tensors, resident.prepared.training)
        in_flight: deque[int | None] = deque()
        for flat in (*of_construction(resident.prepared), *[None] * IN_FLIGHT):
            row = in_flight.popleft() if len(in_flight) == IN_FLIGHT else None
            if row is not None:
                self.add_events([~row])
            if flat is not None:
                self._request([NAME], [flat.bytes])
            in_flight.append(None if flat is None else len(self.sizes) - 1)
