"""The tensors that are alive at a moment of a step."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, get_args

from calculator.common.names import ComponentName

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from calculator.engine.kinds import Storages
    from calculator.engine.tape import Allocation
    from calculator.resident.per_parameter import ResidentTensors

COMPONENTS: tuple[ComponentName, ...] = get_args(ComponentName)

#: Kinds of storages with a count each, which is negative where copies free what an interpreted layer keeps.
Counted = list[tuple[int, int]]


class StorageCounts(NamedTuple):
    """The number of storages of each kind of one run."""

    storages: Storages
    counts: Mapping[int, int]

    @property
    def bytes(self) -> int:
        """The bytes of all of them."""
        sizes, size_of = self.storages.sizes, self.storages.kinds.size_of
        return sum([sizes[size_of[kind]] * count for kind, count in self.counts.items()])

    def items(self) -> list[tuple[Allocation, int]]:
        """Each kind with its number."""
        allocation = self.storages.allocation
        return [(allocation(kind), count) for kind, count in self.counts.items()]


class LiveTensors:
    """The resident tensors and the step's own storages."""

    __slots__ = ("counted", "left", "resident_tensors", "single", "storages")

    def __init__(
        self,
        resident_tensors: Sequence[ResidentTensors],
        storages: Storages | None = None,
        single: Iterable[int] = (),
        counted: Counted | None = None,
        left: StorageCounts | None = None,
    ) -> None:
        self.resident_tensors = resident_tensors
        self.storages = storages
        #: The kinds of storages listed one by one.
        self.single = single
        #: Storages listed by kind.
        self.counted = counted or []
        #: What another micro-batch left.
        self.left = left

    def by_component(self) -> dict[ComponentName, int]:
        """Bytes by component. No row is built."""
        totals = dict.fromkeys(COMPONENTS, 0)
        for tensor in self.resident_tensors:
            totals[tensor.component] += tensor.bytes
        if self.storages is not None:
            sizes, kinds = self.storages.sizes, self.storages.kinds
            size_of, components = kinds.size_of, kinds.components
            for kind in self.single:
                totals[components[kind]] += sizes[size_of[kind]]
            _add(totals, self.storages, self.counted)
        if self.left is not None:
            _add(totals, self.left.storages, self.left.counts.items())
        return totals

    def kinds(self) -> Counter[Allocation]:
        """The number of the step's own storages of each kind, in the order of allocation."""
        numbers = Counter(self.single)
        for kind, count in self.counted:
            numbers[kind] += count
        left = self.left
        if left is not None and left.storages is self.storages:
            for kind, count in left.counts.items():
                numbers[kind] += count
            left = None
        kinds: Counter[Allocation] = Counter()
        if self.storages is not None:
            allocation = self.storages.allocation
            if left is None:
                return Counter({allocation(kind): numbers[kind] for kind in sorted(numbers) if numbers[kind] > 0})
            kinds.update({allocation(kind): numbers[kind] for kind in sorted(numbers)})
        for each, count in left.items() if left is not None else ():
            kinds[each] += count
        return +kinds


def _add(totals: dict[ComponentName, int], storages: Storages, counted: Iterable[tuple[int, int]]) -> None:
    """Add the bytes of counted kinds to those of their components."""
    sizes, size_of, components = storages.sizes, storages.kinds.size_of, storages.kinds.components
    for kind, count in counted:
        totals[components[kind]] += sizes[size_of[kind]] * count
