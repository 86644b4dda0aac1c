"""The recording of one micro-batch: the bytes alive at each event and the tensors behind them, for all layers.

`copies` has the storages that copies of repeated layers add, by kind. `curve` has the bytes of all layers together.
"""

from __future__ import annotations

from operator import neg
from typing import TYPE_CHECKING

from calculator.engine.kinds import picked
from calculator.engine.live_tensors import LiveTensors
from calculator.engine.memory_curve import MemoryCurve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.engine.copies import Copies
    from calculator.engine.kinds import Storages
    from calculator.engine.live_tensors import StorageCounts
    from calculator.engine.memory_curve import Moment
    from calculator.resident.per_parameter import ResidentTensors


class Recording:
    """The events of one micro-batch, with the copies of its repeated layers."""

    __slots__ = ("changes", "copies", "curve", "first", "retained_by_copies", "storages", "windows")

    def __init__(self, copies: Copies, storages: Storages) -> None:
        self.copies = copies
        self.storages = storages
        self.windows = copies.windows
        self.first = copies.first
        #: The bytes that each event adds.
        self.changes = self._changes()
        sizes = storages.sizes
        growth = tuple(map(storages.bytes_of_sizes, copies.sizes))
        #: Rows that the copies keep after the interpreted layer frees them.
        self.retained_by_copies = self._retained_by_copies(growth)
        size_of = copies.kinds.size_of
        drops = tuple([(at, count * sizes[size_of[kind]]) for at, count, kind in copies.dropped])
        changes = self._changes_with_retained() if self.retained_by_copies else self.changes
        self.curve = MemoryCurve(changes, self.windows, growth, drops)

    def row_bytes(self, row: int) -> int:
        """Return the bytes of a row."""
        return self.storages.sizes[self.storages.kinds.row_size(row)]

    def operation(self, position: int) -> str:
        """Return the name of the row of the last event before a position."""
        event = self.copies.lifetimes.events[position - 1] if position else 0
        return self.storages.kinds.row_name(event if event >= 0 else ~event)

    def alive(
        self, moment: Moment, resident_tensors: Sequence[ResidentTensors] = (), left: StorageCounts | None = None
    ) -> LiveTensors:
        """Return the tensors alive at a moment, with resident tensors and what the previous step left."""
        retained = tuple(self.retained_at(moment.event)) if self.retained_by_copies else ()
        if left is not None and left.storages is self.storages:
            live_kinds = self.copies.live_kinds(moment, retained, tuple(left.counts.items()))
            return LiveTensors(resident_tensors, self.storages, live_kinds)
        return LiveTensors(resident_tensors, self.storages, self.copies.live_kinds(moment, retained), left)

    def retained_at(self, event: int) -> list[int]:
        """Return the rows that copies still keep at a position, while the interpreted layer has freed them."""
        ends = self.copies.lifetimes.ends
        return [row for row in self.retained_by_copies if ends[row] < event < self.windows[1].end]

    def _changes(self) -> Sequence[int]:
        """Return the bytes that each event adds. A free adds a negative number.

        `n` indexes the sizes from the front of the list. `~n` = -n - 1 indexes the freed bytes from its end.
        """
        sizes = self.storages.sizes
        signed_sizes = [*sizes, *map(neg, reversed(sizes))]
        return picked(signed_sizes, self.copies.kinds.size_events)

    def _retained_by_copies(self, growth: tuple[int, ...]) -> list[int]:
        """Return the rows of tables that only the repeated layers keep.

        The last layer frees them, while the copies before it still keep them. The peak is in one of these copies if
        each leaves fewer bytes than it found.
        """
        copies = self.copies
        if not copies.has_backward or growth[1] > 0 or not self.windows[1].copies:
            return []
        return copies.tables_freed

    def _changes_with_retained(self) -> list[int]:
        """Return the bytes that each event adds, where retained tables are freed at the end of the layer."""
        changes = [*self.changes]
        for row in self.retained_by_copies:
            size = self.row_bytes(row)
            changes[self.copies.lifetimes.ends[row]] += size
            changes[self.windows[1].end - 1] -= size
        return changes
