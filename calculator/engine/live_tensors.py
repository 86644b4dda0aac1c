"""The tensors that are alive at a moment of a step."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from calculator.common.names import ComponentName
from calculator.resident.tensor_group import TensorGroup

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from calculator.engine.kinds import Storages
    from calculator.engine.tape import Allocation
    from calculator.resident.per_parameter import ResidentTensors

COMPONENTS: tuple[ComponentName, ...] = get_args(ComponentName)


class LiveKinds(NamedTuple):
    """The number of live storages of each kind at a moment.

    A number is negative if copies free what the interpreted layer keeps. Runs in which the same kinds are equal share
    one object. `known` caches results that do not depend on sizes.
    """

    counts: Mapping[int, int]
    known: dict[str, Any]


class StorageCounts(NamedTuple):
    """The number of storages of each kind in one run."""

    storages: Storages
    counts: Mapping[int, int]

    @property
    def bytes(self) -> int:
        """The bytes of all storages together."""
        return self.storages.bytes_of(self.counts)

    def items(self) -> list[tuple[Allocation, int]]:
        """Return each kind with its number of storages."""
        allocation = self.storages.allocation
        return [(allocation(kind), count) for kind, count in self.counts.items()]


class LiveTensors:
    """The resident tensors and the step's own storages."""

    __slots__ = ("left", "live_kinds", "resident_tensors", "storages")

    def __init__(
        self,
        resident_tensors: Sequence[ResidentTensors],
        storages: Storages | None = None,
        live_kinds: LiveKinds | None = None,
        left: StorageCounts | None = None,
    ) -> None:
        self.resident_tensors = resident_tensors
        self.storages = storages
        #: The live storages of this micro-batch by kind, and what an identical earlier micro-batch left.
        self.live_kinds = live_kinds or LiveKinds({}, {})
        #: The storages that a different earlier micro-batch left.
        self.left = left

    @property
    def group(self) -> TensorGroup:
        """The resident tensors, whose bytes are added up once."""
        if not isinstance(self.resident_tensors, TensorGroup):
            self.resident_tensors = TensorGroup(self.resident_tensors)
        return self.resident_tensors

    def by_component(self) -> dict[ComponentName, int]:
        """Return the live bytes by component. No row is built."""
        totals = dict.fromkeys(COMPONENTS, 0)
        totals.update(self.group.by_component)
        for component, size in self.step_components().items():
            totals[component] += size
        return totals

    def step_components(self) -> dict[ComponentName, int]:
        """Return the live bytes of the step's own storages by component."""
        totals: defaultdict[ComponentName, int] = defaultdict(int)
        if self.storages is not None:
            _add(totals, self.storages, self.live_kinds.counts.items())
        if self.left is not None:
            _add(totals, self.left.storages, self.left.counts.items())
        return totals

    def kinds(self) -> Counter[Allocation]:
        """Return the number of the step's own storages of each kind, in the order of allocation."""
        kinds: Counter[Allocation] = Counter()
        if self.storages is not None:
            allocation = self.storages.allocation
            kinds.update({allocation(kind): count for kind, count in self.live_kinds.counts.items()})
        for kind, count in self.left.items() if self.left is not None else ():
            kinds[kind] += count
        return +kinds


def _add(totals: dict[ComponentName, int], storages: Storages, counted: Iterable[tuple[int, int]]) -> None:
    """Add the bytes of the given kinds to the totals of their components."""
    sizes, size_of, keys = storages.sizes, storages.kinds.size_of, storages.kinds.keys
    for kind, count in counted:
        totals[keys[kind][3]] += sizes[size_of[kind]] * count
