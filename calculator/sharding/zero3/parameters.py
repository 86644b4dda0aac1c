"""The parameters that stage 3 partitions, and the memory of gathered parameters.

Source: deepspeed/runtime/zero/partition_parameters.py.
"""

from __future__ import annotations

from copy import copy
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from calculator.common.dtype import ITEMSIZE, allocated
from calculator.sharding.zero.parameters import Key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.common.dtype import DType

#: The states of a parameter on a GPU.
PARTITIONED, IN_FLIGHT, GATHERED = range(3)


class Storage:
    """The bytes of gathered weights.

    They live as long as a parameter, a gather or a recomputed layer refers to them.
    """

    __slots__ = ("bytes", "live", "references", "represents")

    def __init__(self, live: Live, size: int, represents: int = 1) -> None:
        self.bytes, self.live, self.references, self.represents = size, live, 1, represents
        live.add(size, represents, self)

    def drop(self) -> None:
        """Drop a reference."""
        self.references -= 1
        if not self.references:
            self.live.free(self.bytes, self.represents, self)


class Cast(Storage):
    """The bytes of gathered weights that the call of a module has replaced by a copy in another dtype."""

    __slots__ = ()


class Live:
    """The bytes alive now, and the most since the last reset.

    If not all copies of repeated layers run, `in_copies` is true while a copy runs. A storage then counts once. Outside
    of the copies, it counts as often as the copies that it represents.
    """

    __slots__ = ("bytes", "in_copies", "most", "position")

    def __init__(self) -> None:
        self.bytes = self.most = 0
        #: The position on the tape of the event that runs, for a log.
        self.position = 0
        self.in_copies = False

    def add(self, size: int, represents: int = 1, of: Storage | None = None) -> None:  # noqa: ARG002  LoggedLive has it
        """Allocate some bytes.

        `of` is the storage if they belong to gathered weights.
        """
        self.bytes += size if self.in_copies else size * represents
        self.most = max(self.most, self.bytes)

    def free(self, size: int, represents: int = 1, of: Storage | None = None) -> None:  # noqa: ARG002
        """Free some bytes."""
        self.bytes -= size if self.in_copies else size * represents

    def reset(self) -> None:
        """Reset the maximum to the bytes alive now."""
        self.most = self.bytes


@lru_cache(maxsize=256)
def _sizes(elements: int, dtype: DType, count: int) -> tuple[int, int, int, int]:
    """Return the elements of a partition, and the bytes of a parameter: whole, with padding, and of all partitions.

    They are cached because layers are equal.
    """
    partition, item = -(-elements // count), ITEMSIZE[dtype]
    padded = partition * count
    return partition, allocated(elements, item), allocated(padded, item), padded * item


class Partitioned:
    """A parameter: its sizes, and its state while a step runs."""

    __slots__ = (
        "active",
        "cast",
        "dtype",
        "elements",
        "in_containers",
        "in_order",
        "key",
        "order",
        "partition",
        "payload",
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
        #: The sort key in the model's order: whether it is partitioned after all others, whether it is before, in or
        #: after the layers, its layer, and its number.
        self.order = 0, 0, 0, 0
        self.trained, self.persists = trained, persists
        #: The number of copies of its layer that it represents.
        self.represents = 1
        #: The number of elements of a rank's partition, the bytes of the whole parameter, without and with padding, and
        #: those that all ranks have together, which an all-gather results in.
        self.partition, self.whole, self.with_padding, self.payload = _sizes(elements, dtype, count)
        #: The bytes of the copy in another dtype by which the call of its module replaces it. 0 if it stays.
        self.cast = 0
        self.state = PARTITIONED
        self.storage: Storage | None = None
        #: The modules that are using it.
        self.active: set[Module] = set()
        #: The indices in the recorded order of modules at which it is used.
        self.in_order: list[int] = []
        #: The indices of the modules around the ones that use it.
        self.in_containers: list[int] = []

    def in_layer(self, before: int) -> Partitioned:
        """Return the same parameter in a layer that is `before` layers earlier."""
        own = copy(self)
        after, part, layer, number = self.order
        own.order = after, part, layer - before, number
        return own

    def replace(self) -> None:
        """Replace the gathered weights by the copy in another dtype, unless an earlier call has done so."""
        storage = self.storage
        if storage is not None and not isinstance(storage, Cast):
            self.storage = Cast(storage.live, self.cast, self.represents)
            storage.drop()

    def release(self) -> None:
        """Free the gathered weights."""
        self.state = PARTITIONED
        storage, self.storage = self.storage, None
        if storage is not None:
            storage.drop()


#: Return the elements of a parameter, those of its partition, and the bytes of its copy in another dtype.
ELEMENTS, PARTITION, CAST = attrgetter("elements"), attrgetter("partition"), attrgetter("cast")


class Parameters(NamedTuple):
    """The parameters of the trained model, and those of a second model."""

    own: list[Partitioned]
    second: list[Partitioned]


class Module:
    """A module of the running step, with its own parameters and those of other modules that its code uses."""

    __slots__ = (
        "cast",
        "in_second_model",
        "inside",
        "is_leaf",
        "key",
        "number",
        "parameters",
        "read",
        "recomputed",
        "stays_in_backward",
    )

    def __init__(
        self, number: int, parameters: list[Partitioned], key: Key | None = None, *, in_second_model: bool = False
    ) -> None:
        self.number, self.parameters = number, parameters
        #: The parameters of adapters among them, which its code reads in passes with adapters.
        self.read: list[Partitioned] = []
        #: The parameters that its call replaces by copies in another dtype.
        self.cast: Sequence[Partitioned] = ()
        #: Whether it owns the parameters of all modules inside it.
        self.is_leaf = False
        #: The parameters of the modules inside it, which its calls do not gather. Empty for a leaf, which owns them.
        self.inside: dict[Partitioned, None] = {}
        #: Whether it belongs to a second model, which has a coordinator of its own.
        self.in_second_model = in_second_model
        #: The path of the module, and the number of its layer.
        self.key = key or Key(str(number), None)
        #: Frozen parameters that a recomputation gathered while this module's backward pass was running.
        self.recomputed: set[Partitioned] = set()
        #: Whether DeepSpeed misses the end of its backward pass, because it last ran under no_grad.
        self.stays_in_backward = False

    @property
    def elements(self) -> int:
        """The number of elements of its own parameters."""
        return sum(map(ELEMENTS, self.parameters))

    @property
    def elements_inside(self) -> int:
        """The number of elements of the parameters inside it, for every copy if it is outside of the layers."""
        whole = self.key.layer is None
        return sum([parameter.elements * (parameter.represents if whole else 1) for parameter in self.inside])
