"""The tensors that are alive at a moment of a step."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, get_args

from calculator.common.names import ComponentName

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.engine.tape import Allocation
    from calculator.resident.per_parameter import ResidentTensors

COMPONENTS: tuple[ComponentName, ...] = get_args(ComponentName)

#: Kinds of storages with a count each, which is negative where copies free what an interpreted layer keeps.
Counted = list[tuple["Allocation", int]]


class LiveTensors:
    """The resident tensors and the step's own storages."""

    __slots__ = ("counted", "order", "resident_tensors", "single")

    def __init__(
        self,
        resident_tensors: Sequence[ResidentTensors],
        single: Iterable[Allocation] = (),
        counted: Counted | None = None,
        order: Iterable[Allocation] = (),
    ) -> None:
        self.resident_tensors = resident_tensors
        #: Storages listed one by one.
        self.single = list(single)
        #: Storages listed by kind.
        self.counted = counted or []
        #: Every kind, in the order of allocation.
        self.order = order

    def by_component(self) -> dict[ComponentName, int]:
        """Bytes by component. No row is built."""
        totals = dict.fromkeys(COMPONENTS, 0)
        for tensor in self.resident_tensors:
            totals[tensor.component] += tensor.bytes
        for allocation in self.single:
            totals[allocation[3]] += allocation[4]
        for allocation, count in self.counted:
            totals[allocation[3]] += allocation[4] * count
        return totals

    def kinds(self) -> Counter[Allocation]:
        """The number of the step's own storages of each kind, in the order of allocation."""
        kinds = Counter(dict.fromkeys(self.order, 0))
        kinds.update(self.single)
        for allocation, count in self.counted:
            kinds[allocation] += count
        return +kinds
