"""What is alive at a moment of a step."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, get_args

from calculator.common.names import ComponentName

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.engine.tape import Allocation
    from calculator.resident.per_parameter import ResidentTensors

COMPONENTS: tuple[ComponentName, ...] = get_args(ComponentName)

#: Kinds of storages, and how many of each; fewer than none where copies free what an interpreted layer keeps.
Counted = list[tuple["Allocation", int]]


class LiveTensors:
    """Tensors that stay, and the step's own storages: one by one, and by kind; `born` are all kinds, in their order."""

    __slots__ = ("born", "counted", "resident_tensors", "single")

    def __init__(
        self,
        resident_tensors: Sequence[ResidentTensors],
        single: Iterable[Allocation] = (),
        counted: Counted | None = None,
        born: Iterable[Allocation] = (),
    ) -> None:
        self.resident_tensors = resident_tensors
        self.single = list(single)
        self.counted = counted or []
        self.born = born

    def by_component(self) -> dict[ComponentName, int]:
        """Bytes, folded without a row being made."""
        totals = dict.fromkeys(COMPONENTS, 0)
        for tensor in self.resident_tensors:
            totals[tensor.component] += tensor.bytes
        for born in self.single:
            totals[born[3]] += born[4]
        for born, count in self.counted:
            totals[born[3]] += born[4] * count
        return totals

    def kinds(self) -> Counter[Allocation]:
        """How many of each kind of the step's own storages there are, in the order of their births."""
        kinds = Counter(dict.fromkeys(self.born, 0))
        kinds.update(self.single)
        for born, count in self.counted:
            kinds[born] += count
        return +kinds
