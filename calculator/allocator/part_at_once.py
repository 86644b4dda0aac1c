"""A part of a pass that is played at once, because all of its transients are certain to be served.

That is so if a free part that serves any of its stretches of transients remains whatever is placed (see
`FlatPool.keeps`). Otherwise each stretch is compared with what is free at its start (see `transients`).
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from calculator.common.cached import cached_property

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.allocator.flat_pool import FlatPool, Places
    from calculator.allocator.transients import Item


class PartAtOnce:
    """Items of a pass. The first one begins no later than the transients of its stretch."""

    def __init__(self, items: Sequence[Item], sizes: Sequence[int], waste: int) -> None:
        self._items = items
        self._sizes = sizes
        #: The size of a free part that is certain to serve the transients of any stretch. 0 if there are none.
        self.sufficient_size = max([item.sufficient_size for item in items], default=0)
        chunks = [item.chunk for item in items]
        allocated = {chunk: sum([sizes[event] + waste for event in chunk.placed if event >= 0]) for chunk in {*chunks}}
        #: The size of all placed tensors that it allocates, each with the most that it wastes.
        self.allocated = sum([allocated[chunk] for chunk in chunks])

    @cached_property
    def _events(self) -> list[int]:
        """The events without those of transients."""
        return [*chain.from_iterable([item.played(None, skips=True) for item in self._items])]

    def play(self, pool: FlatPool, places: Places) -> bool:
        """Play the events if all transients are certain to be served. Return whether they are."""
        if self.sufficient_size and not pool.keeps(self.sufficient_size, self.allocated):
            return False
        pool.play(self._events, self._sizes, places)
        return True
