"""Recurring states of a pool. The same events leave the same state.

What events do to a pool depends on its free blocks and on the places of the tensors that they free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.allocator.chunks import Chunk
    from calculator.allocator.flat_pool import FlatPool, Placed, Places
    from calculator.allocator.transients import Item, Pool

    #: The state of a pool: its free blocks, and the places of the live transients.
    State = tuple[list[int], list[Placed]]


class Recurring:
    """Finds out whether a repeated chunk leaves a pool unchanged. If it does once, it does so each time."""

    __slots__ = ("_before", "_chunk", "_places", "_pool", "_recurs")

    def __init__(self, pool: Pool, places: Places) -> None:
        self._pool = pool
        self._places = places
        self._chunk: Chunk | None = None
        #: Whether the chunk left the pool unchanged.
        self._recurs = False
        self._before: tuple[list[int] | None, list[int]] = None, []

    def is_as_before(self, chunk: Chunk) -> bool:
        """Return whether the pool is as it was before the previous repetition of the chunk."""
        before, is_same = self._before, chunk is self._chunk
        if is_same and self._recurs:
            return True
        addresses, _ = self._places
        freed = [*map(addresses.__getitem__, chunk.freed)]
        self._chunk, self._before = chunk, (self._pool.free_blocks(), freed)
        self._recurs = is_same and before[0] is not None and before == self._before
        return self._recurs


class PassStates:
    """The states of a pool during a pass, at the items after which the pass added no segment."""

    __slots__ = ("_items", "_met", "_placed", "_skipped", "_states")

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        #: By item, the free blocks before it and the places of the live transients.
        self._states: dict[int, State] = {}
        #: The same for the items of the current pass, with the number of segments.
        self._met: list[tuple[int, State, int]] = []
        #: The first item that was not played, because its state recurred.
        self._skipped = len(items)
        #: The places in the earlier pass of the rows that are freed from the first of these states on.
        self._placed: dict[int, Placed] = {}

    def recurs(self, number: int, pool: FlatPool, places: Places) -> bool:
        """Return whether the pool is in the state before the item that it had when all later items added no segment."""
        item, (addresses, end_addresses) = self._items[number], places
        carried = [(addresses[row], end_addresses[row]) for row in item.events(item.chunk.carried)]
        state = pool.free_blocks(), carried
        if self._states.get(number) == state and self._frees_the_same(number, places):
            self._skipped = number
            return True
        self._met.append((number, state, len(pool.segments)))
        return False

    def _frees_the_same(self, number: int, places: Places) -> bool:
        addresses, end_addresses = places
        return all(self._placed[row] == (addresses[row], end_addresses[row]) for row in self._freed_from(number))

    def _freed_from(self, number: int) -> list[int]:
        """Return the placed rows that an item and those after it free in their gaps."""
        items = self._items[number:]
        return [~event for item in items if item.chunk.frees for event in item.events(item.chunk.frees)]

    def end(self, pool: FlatPool, places: Places) -> None:
        """Store the states of the pass that ends."""
        states = {number: state for number, state, segments in self._met if segments == len(pool.segments)}
        if self._skipped < len(self._items):
            states.update({number: state for number, state in self._states.items() if number >= self._skipped})
        self._states, self._met, self._skipped = states, [], len(self._items)
        if states:
            addresses, end_addresses = places
            self._placed = {row: (addresses[row], end_addresses[row]) for row in self._freed_from(min(states))}
