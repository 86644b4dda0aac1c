"""The reduction of gradients in stage 3: a bucket that stays on the GPU, and partitions of gradients.

Source: deepspeed/runtime/zero/stage3.py, reduce_independent_p_g_buckets_and_remove_grads; runtime/comm/
coalesced_collectives.py, reduce_scatter_coalesced.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from calculator.common.dtype import ALLOCATION_ROUNDING, ITEMSIZE, allocated
from calculator.sharding.zero3.parameters import PARTITION

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.common.dtype import DType
    from calculator.sharding.zero3.parameters import Live, Partitioned
    from calculator.sharding.zero3.sizes import Sizes


#: The number of elements of a partition that DeepSpeed casts to float64 at a time, for its norm.
NORM_ELEMENTS = 250_000_000


_SIZES, _NAME = attrgetter("elements", "partition"), attrgetter("key.name")


class Bucket:
    """The gradients that wait for their reduction."""

    __slots__ = ("_cast", "_elements", "_item", "_large", "_live", "_runs", "_sizes", "is_last")

    def __init__(self, sizes: Sizes, live: Live, dtype: DType) -> None:
        self._sizes, self._live, self._item = sizes, live, ITEMSIZE[dtype]
        #: The parameters whose gradients wait, and how often they come: once in each of several copies of a layer.
        self._runs: list[tuple[Sequence[Partitioned], int]] = []
        self._elements = 0
        #: The bytes of gradients that are too large for the buffer, and of their copies in the dtype of the reduction.
        self._large = self._cast = 0
        #: Whether this is the step's last micro-batch, in which offloaded gradients go to the optimizer.
        self.is_last = True

    def is_full(self, parameter: Partitioned) -> bool:
        """Return whether the bucket must be reduced before a gradient is added."""
        return self._elements > 0 and self._elements + parameter.elements > self._sizes.reduce_bucket

    def add(self, parameter: Partitioned) -> None:
        """Copy a gradient to the buffer. A gradient that is too large stays where it is."""
        if self._elements + parameter.elements > self._sizes.reduce_bucket:
            own = ITEMSIZE[parameter.dtype]
            size = allocated(parameter.elements, own)
            self._large += size
            self._cast += allocated(parameter.elements, self._item) if own != self._item else 0
            self._live.add(size)
        self._runs.append(((parameter,), 1))
        self._elements += parameter.elements

    @property
    def _parameters(self) -> list[Partitioned]:
        return [parameter for own, times in self._runs for parameter in (*own,) * times]

    @property
    def state(self) -> tuple[int, int, tuple[str, ...]]:
        """The state that determines when the bucket is reduced, and with which sizes."""
        return self._elements, self._large, (*map(_NAME, self._parameters),)

    @property
    def orders(self) -> bool:
        """Whether the order of gradients matters, because each is offloaded by itself."""
        return self._sizes.offloads_optimizer

    def takes(self, elements: int) -> bool:
        """Return whether the buffer has room for this many elements without an allocation."""
        return self._elements + elements <= self._sizes.reduce_bucket and not self._live.bytes

    def take(self, gradients: Sequence[Partitioned], elements: int, times: int = 1) -> None:
        """Copy gradients that fit to the buffer. `elements` are those of all, which come several `times`."""
        if gradients:
            self._runs.append((gradients, times))
        self._elements += elements

    def reduce(self) -> None:
        """Reduce the gradients, and copy this rank's parts to its partition."""
        if not self._runs:
            return
        fits = self._elements <= self._sizes.reduce_bucket
        scatters = self._sizes.reduce_scatter or not fits
        size, pieces = self._scattered() if scatters else (self._averaged(), 0)
        self._live.add(self._cast + size + pieces)
        self._live.bytes -= pieces + self._cast
        if self._sizes.offloads_optimizer:
            self._offload(sorted(self._parameters, key=attrgetter("order")) if scatters else self._parameters)
        self._live.bytes -= size + self._large
        self._runs, self._elements, self._large, self._cast = [], 0, 0, 0

    def _offload(self, parameters: Iterable[Partitioned]) -> None:
        """Copy each partition to the host and back. Keep its norm and a float32 copy for the optimizer."""
        for parameter in parameters:
            used = allocated(parameter.partition, self._item) + (
                self._for_optimizer(parameter.partition) if self.is_last else 0
            )
            self._live.add(used)
            self._live.bytes -= used
            if self.is_last:
                self._live.add(ALLOCATION_ROUNDING)

    def _for_optimizer(self, elements: int) -> int:
        """Return the peak bytes alive while a partition's norm is computed, or while its float32 copy is on the GPU."""
        first, rest = min(elements, NORM_ELEMENTS), min(max(elements - NORM_ELEMENTS, 0), NORM_ELEMENTS)
        norm = allocated(first, 8) + ALLOCATION_ROUNDING
        later = allocated(rest, 8) + 2 * ALLOCATION_ROUNDING
        copied = allocated(elements, 4) + ALLOCATION_ROUNDING if self._item != 4 else 0
        return max(norm, later, copied)

    def _scattered(self) -> tuple[int, int]:
        """Interleave the parts of all ranks, with padding.

        A single gradient without padding stays in place.
        """
        count, runs = self._sizes.ranks, self._runs
        if len(runs) == 1 and len(runs[0][0]) * runs[0][1] == 1 and self._elements % count == 0:
            own, self._cast = self._cast, 0
            return own, 0
        padded = sum([sum(map(PARTITION, some)) * times for some, times in runs]) * count
        sizes: dict[tuple[int, int], int] = {}
        for some, times in runs:
            for size in map(_SIZES, some):
                sizes[size] = sizes.get(size, 0) + times
        padding = sum([sum(self._paddings(*size)) * number for size, number in sizes.items()])
        return allocated(padded, self._item), padding

    def _paddings(self, elements: int, partition: int) -> list[int]:
        """Return the bytes of the tensors that pad a gradient, one for each rank that needs padding."""
        count = self._sizes.ranks
        whole, rest = divmod(elements, partition)
        missing = [partition - rest] if rest else []
        empty = count - whole - len(missing)
        return [allocated(padding, self._item) for padding in (*missing, *[partition] * empty)]

    def _averaged(self) -> int:
        """Copy the reduced buffer, and pad the parts of the last rank."""
        return allocated(self._elements, self._item) + sum(self._padded_parts())

    def _padded_parts(self) -> list[int]:
        """Return the bytes of the last rank's parts of gradients that are padded."""
        count = self._sizes.ranks
        return [
            allocated(parameter.partition, self._item) for parameter in self._parameters if parameter.elements % count
        ]
