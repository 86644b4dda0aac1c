"""The allocators on which a history is replayed: flat lists with default settings, block objects with others."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any, Protocol

from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.chunks import pools_of
from calculator.allocator.flat_device import FlatDevice
from calculator.allocator.out_of_memory import OutOfMemoryError
from calculator.allocator.replay import Tensors
from calculator.allocator.segments import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from calculator.allocator.alloc_conf import AllocConf
    from calculator.allocator.out_of_memory import DeviceMemory

#: A block in use, in the form of its machine.
Placed = tuple[Any, Any]


class Machine(Protocol):
    """An allocator that plays the events of one list of rows after the other."""

    @property
    def retries(self) -> int:
        """The number of segments that were requested again after cached ones were freed."""

    def most_reserved(self) -> int:
        """Return the peak bytes that were reserved since the last call."""

    def begin(self, sizes: Sequence[int], name: Callable[[int], str], streams: Sequence[int] = ()) -> None:
        """Start a list of rows.

        `sizes` are in bytes. `name` returns the name of a row's tensor. `streams` are the streams of the rows.
        """

    def take(self, rows: Sequence[int], blocks: Sequence[Placed]) -> None:
        """Assign allocated blocks to rows."""

    def play(self, events: Sequence[int]) -> None:
        """Allocate row `n` for an event `n`, and free it for `~n`.

        Raises:
            OutOfMemoryError: if an allocation fails, with the name of its tensor.
        """

    def placed(self, rows: Sequence[int]) -> list[Placed]:
        """Return the blocks of allocated rows."""

    def free(self, blocks: Sequence[Placed]) -> None:
        """Free blocks of this list of rows, or of an earlier one."""

    def empty_cache(self) -> None:
        """Return every wholly free segment to the device, as `torch.cuda.empty_cache`."""


class FlatMachine:
    """A flat device with default settings.

    `units` is an upper bound on the size of all its segments, in units of 512 bytes.
    """

    def __init__(self, units: int, pools: int = 2) -> None:
        self._device = FlatDevice(units.bit_length() + 1 + (pools - 1).bit_length(), pools)
        self._sizes: list[int] = []
        self._keys: list[int] = []
        self._places: tuple[list[int], list[int]] = [], []
        self._name: Callable[[int], str] = str

    @property
    def retries(self) -> int:
        """The number of repeated requests."""
        return self._device.retries

    def most_reserved(self) -> int:
        """Return the peak bytes that were reserved since the last call."""
        most = self._device.max_reserved
        self._device.max_reserved = self._device.reserved
        return most * BLOCK

    def begin(self, sizes: Sequence[int], name: Callable[[int], str], streams: Sequence[int] = ()) -> None:
        """Start a list of rows."""
        self._sizes = [size // BLOCK for size in sizes]
        self._keys = pools_of(self._sizes, streams)
        self._places = [0] * len(sizes), [0] * len(sizes)
        self._name = name

    def take(self, rows: Sequence[int], blocks: Sequence[Placed]) -> None:
        """Assign blocks to rows."""
        addresses, end_addresses = self._places
        for row, block in zip(rows, blocks, strict=True):
            addresses[row], end_addresses[row] = block

    def play(self, events: Sequence[int]) -> None:
        """Allocate and free rows."""
        try:
            self._device.play(events, self._sizes, self._keys, self._places)
        except OutOfMemoryError as error:
            error.tensor = self._name(error.row)
            raise

    def placed(self, rows: Sequence[int]) -> list[Placed]:
        """Return the blocks of rows."""
        addresses, end_addresses = self._places
        return [(addresses[row], end_addresses[row]) for row in rows]

    def free(self, blocks: Sequence[Placed]) -> None:
        """Free blocks."""
        places = [address for address, _ in blocks], [behind for _, behind in blocks]
        sizes = [behind - address for address, behind in blocks]
        self._device.play(range(-len(blocks), 0), sizes, self._device.pools(places[0]), places)

    def empty_cache(self) -> None:
        """Return wholly free segments."""
        self._device.empty_cache()

    def close_gaps(self, blocks: Sequence[Placed]) -> list[Placed]:
        """Close the gaps between segments that released ones left. Return where the blocks are then."""
        moves = self._device.close_gaps()
        pools = self._device.pools([address for address, _ in blocks])
        return [
            (moves[pool].moved(address), moves[pool].moved(behind)) if pool in moves else (address, behind)
            for pool, (address, behind) in zip(pools, blocks, strict=True)
        ]

    def state(self) -> Hashable:
        """Return all that the placement of further rows depends on."""
        return self._device.state()

    def copied(self) -> FlatMachine:
        """Return a machine in the same state."""
        other = copy(self)
        other._device = self._device.saved()  # noqa: SLF001  its own class
        other.begin((), str)
        return other

    def saved(self, capacity: int | None = None) -> FlatMachine:
        """Return a machine in the same state, on a device of a capacity."""
        other = self.copied()
        other._device.capacity = capacity  # noqa: SLF001  its own class
        return other


class ConfiguredMachine:
    """The caching allocator with settings of PYTORCH_CUDA_ALLOC_CONF."""

    def __init__(self, conf: AllocConf, device: DeviceMemory | None) -> None:
        capacity, total = (device.capacity, device.total) if device is not None else (None, None)
        self._allocator = CachingAllocator(conf, capacity=capacity, total=total)
        self._tensors = Tensors(self._allocator, [])

    @property
    def retries(self) -> int:
        """The number of repeated requests."""
        return self._allocator.retries

    def most_reserved(self) -> int:
        """Return the peak bytes that were reserved since the last call."""
        most = self._allocator.max_reserved
        self._allocator.max_reserved = self._allocator.reserved
        return most

    def begin(self, sizes: Sequence[int], name: Callable[[int], str], streams: Sequence[int] = ()) -> None:
        """Start a list of rows."""
        rest = [0] * (len(sizes) - len(streams)) if streams else ()
        self._tensors = Tensors(self._allocator, [*sizes], name, [*streams, *rest])

    def take(self, rows: Sequence[int], blocks: Sequence[Placed]) -> None:
        """Assign blocks to rows."""
        for row, (_, block) in zip(rows, blocks, strict=True):
            self._tensors.blocks[row] = block

    def play(self, events: Sequence[int]) -> None:
        """Allocate and free rows."""
        self._tensors.play(events)

    def placed(self, rows: Sequence[int]) -> list[Placed]:
        """Return the blocks of rows."""
        return [*self._tensors.blocks_of(rows)]

    def free(self, blocks: Sequence[Placed]) -> None:
        """Free blocks."""
        for pool, block in blocks:
            pool.free(block)

    def empty_cache(self) -> None:
        """Return wholly free segments."""
        self._allocator.empty_cache()
