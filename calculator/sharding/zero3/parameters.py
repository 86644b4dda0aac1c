"""The parameters that stage 3 partitions, and the memory that gathered ones take.

Source: deepspeed/runtime/zero/partition_parameters.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE, allocated

if TYPE_CHECKING:
    from calculator.common.dtype import DType
    from calculator.sharding.zero.parameters import Key

#: The states of a parameter on a GPU.
PARTITIONED, IN_FLIGHT, GATHERED = range(3)


class Storage:
    """Bytes of gathered weights, alive while a parameter, a gather or a recomputed layer refers to them."""

    __slots__ = ("bytes", "live", "references")

    def __init__(self, live: Live, size: int) -> None:
        self.bytes, self.live, self.references = size, live, 1
        live.add(size)

    def drop(self) -> None:
        """Drop a reference."""
        self.references -= 1
        if not self.references:
            self.live.bytes -= self.bytes


class Live:
    """The bytes alive now, and the most since the last reset."""

    __slots__ = ("bytes", "most")

    def __init__(self) -> None:
        self.bytes = self.most = 0

    def add(self, size: int) -> None:
        """Allocate some bytes."""
        self.bytes += size
        self.most = max(self.most, self.bytes)

    def reset(self) -> None:
        """Begin to look for the most anew."""
        self.most = self.bytes


class Partitioned:
    """A parameter: its sizes, and its state while a step runs."""

    __slots__ = (
        "active",
        "dtype",
        "elements",
        "in_order",
        "key",
        "number",
        "partition",
        "persists",
        "state",
        "storage",
        "trained",
        "whole",
        "with_padding",
    )

    def __init__(
        self, key: Key, elements: int, dtype: DType, count: int, *, trained: bool, persists: bool, number: int = 0
    ) -> None:
        self.key, self.elements, self.dtype = key, elements, dtype
        #: Its place among the model's parameters.
        self.number = number
        self.trained, self.persists = trained, persists
        #: The elements of a rank's partition.
        self.partition = -(-elements // count)
        item = ITEMSIZE[dtype]
        #: The bytes of the whole parameter, without padding and with it.
        self.whole = allocated(elements, item)
        self.with_padding = allocated(self.partition * count, item)
        self.state = PARTITIONED
        self.storage: Storage | None = None
        #: The modules that use it at the moment.
        self.active: set[int] = set()
        #: The places in the recorded order of modules at which it is used.
        self.in_order: list[int] = []

    def release(self) -> None:
        """Free what was gathered."""
        self.state = PARTITIONED
        if self.storage is not None:
            self.storage.drop()
            self.storage = None


class Module:
    """A module of the running step, with its own parameters and those that its code uses of others."""

    __slots__ = ("number", "parameters", "recomputed")

    def __init__(self, number: int, parameters: list[Partitioned]) -> None:
        self.number, self.parameters = number, parameters
        #: Frozen parameters that a recomputation gathered while this module's backward pass ran.
        self.recomputed: set[Partitioned] = set()
