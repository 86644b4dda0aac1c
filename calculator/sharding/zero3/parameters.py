"""The parameters that stage 3 partitions, and the memory that gathered ones take.

Source: deepspeed/runtime/zero/partition_parameters.py.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, NamedTuple

from calculator.common.dtype import ITEMSIZE, allocated
from calculator.sharding.zero.parameters import Key

if TYPE_CHECKING:
    from calculator.common.dtype import DType

#: The states of a parameter on a GPU.
PARTITIONED, IN_FLIGHT, GATHERED = range(3)


class Storage:
    """Bytes of gathered weights, alive while a parameter, a gather or a recomputed layer refers to them."""

    __slots__ = ("bytes", "live", "references", "represents")

    def __init__(self, live: Live, size: int, represents: int = 1) -> None:
        self.bytes, self.live, self.references, self.represents = size, live, 1, represents
        live.add(size, represents, self)

    def drop(self) -> None:
        """Drop a reference."""
        self.references -= 1
        if not self.references:
            self.live.free(self.bytes, self.represents, self)


class Live:
    """The bytes alive now, and the most since the last reset.

    Where not all copies of repeated layers run, `in_copies` is whether one does: a storage then counts once. Outside of
    them it counts as often as storages of copies that it represents.
    """

    __slots__ = ("bytes", "in_copies", "most")

    def __init__(self) -> None:
        self.bytes = self.most = 0
        self.in_copies = False

    def add(self, size: int, represents: int = 1, of: Storage | None = None) -> None:  # noqa: ARG002  LoggedLive has it
        """Allocate some bytes, of a storage of gathered weights or of others."""
        self.bytes += size if self.in_copies else size * represents
        self.most = max(self.most, self.bytes)

    def free(self, size: int, represents: int = 1, of: Storage | None = None) -> None:  # noqa: ARG002
        """Free some bytes."""
        self.bytes -= size if self.in_copies else size * represents

    def reset(self) -> None:
        """Begin to look for the most again."""
        self.most = self.bytes


class Partitioned:
    """A parameter: its sizes, and its state while a step runs."""

    __slots__ = (
        "active",
        "dtype",
        "elements",
        "in_containers",
        "in_order",
        "key",
        "order",
        "partition",
        "persists",
        "represents",
        "state",
        "storage",
        "trained",
        "whole",
        "with_padding",
    )

    def __init__(self, key: Key, elements: int, dtype: DType, count: int, *, trained: bool, persists: bool) -> None:
        self.key, self.elements, self.dtype = key, elements, dtype
        #: Its place among the model's parameters: 1 for those that are partitioned after all others; before, in or
        #: after the layers, its layer, and its number.
        self.order = 0, 0, 0, 0
        self.trained, self.persists = trained, persists
        #: How many copies of its layer it represents.
        self.represents = 1
        #: The elements of a rank's partition.
        self.partition = -(-elements // count)
        item = ITEMSIZE[dtype]
        #: The bytes of the whole parameter, without padding and with it.
        self.whole = allocated(elements, item)
        self.with_padding = allocated(self.partition * count, item)
        self.state = PARTITIONED
        self.storage: Storage | None = None
        #: The modules that use it at the moment.
        self.active: set[Module] = set()
        #: The places in the recorded order of modules at which it is used.
        self.in_order: list[int] = []
        #: Those of the modules around the ones that use it.
        self.in_containers: list[int] = []

    def in_layer(self, before: int) -> Partitioned:
        """The same parameter in a layer that is some layers before its own."""
        own = copy(self)
        after, part, layer, number = self.order
        own.order = after, part, layer - before, number
        return own

    def release(self) -> None:
        """Free what was gathered."""
        self.state = PARTITIONED
        if self.storage is not None:
            self.storage.drop()
            self.storage = None


class Parameters(NamedTuple):
    """The parameters of the model that is trained, and those of a second one."""

    own: list[Partitioned]
    of_second: list[Partitioned]


class Module:
    """A module of the running step, with its own parameters and those that its code uses of others."""

    __slots__ = ("inside", "is_leaf", "key", "number", "of_second", "parameters", "recomputed", "stays_in_backward")

    def __init__(
        self, number: int, parameters: list[Partitioned], key: Key | None = None, *, of_second: bool = False
    ) -> None:
        self.number, self.parameters = number, parameters
        #: Whether it has the parameters of all modules inside it.
        self.is_leaf = False
        #: The parameters of the modules inside it, which no call of it gathers; those of a leaf are its own.
        self.inside: dict[Partitioned, None] = {}
        #: Whether it is of a second model, which a coordinator of its own gathers.
        self.of_second = of_second
        #: Its path, and the number of its layer.
        self.key = key or Key(str(number), None)
        #: Frozen parameters that a recomputation gathered while this module's backward pass ran.
        self.recomputed: set[Partitioned] = set()
        #: Whether it is not seen to leave its backward pass, because it last ran without a graph.
        self.stays_in_backward = False

    @property
    def elements(self) -> int:
        """The elements of its own parameters."""
        return sum([each.elements for each in self.parameters])

    @property
    def elements_inside(self) -> int:
        """The elements of the parameters inside it, of every copy where it is outside of the layers."""
        whole = self.key.layer is None
        return sum([each.elements * (each.represents if whole else 1) for each in self.inside])
