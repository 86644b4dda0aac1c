"""The base class of loads from host memory, which request the same on a device of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.allocator.loading import Loading, one_by_one
from calculator.common.dtype import rounded
from calculator.inputs.sharding import FSDPConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.per_parameter import ResidentTensors


class HostLoading(Loading):
    """A model that is read into host memory. Its weights are then copied to the device."""

    __slots__ = ("_offloads",)

    def __init__(self, prepared: PreparedModel) -> None:
        self._begin(prepared.training)
        #: Whether the shards stay in host memory.
        self._offloads = (prepared.training.fsdp_config or FSDPConfig()).cpu_offload

    @property
    def warmup(self) -> int:
        """The bytes of the warmup: 0, since nothing is allocated before the weights are read."""
        return 0

    def for_device(self, total: int | None) -> tuple[list[int], list[list[int]]]:  # noqa: ARG002  nothing depends on the device
        """Return the sizes and events, which are the same on a device of any size."""
        return self.sizes, self.stages

    def spare(self, total: int) -> int:
        """Return by how many bytes a device could shrink: all of them, since the load does not depend on its size."""
        return total

    def _stay(self, tensors: Iterable[ResidentTensors]) -> None:
        """Allocate tensors that the load does not free."""
        self._allocate(tensors)

    def _allocate(self, tensors: Iterable[ResidentTensors]) -> list[int]:
        """Allocate tensors, and return their rows."""
        return [self._add(tensor.name, rounded(tensor.bytes // tensor.count)) for tensor in one_by_one(tensors)]

    def _add(self, name: str, size: int) -> int:
        """Allocate a tensor, and return its row."""
        self._request([name], [size])
        return len(self.sizes) - 1

    def _free(self, rows: Iterable[int]) -> None:
        self.add_events(~row for row in rows)
