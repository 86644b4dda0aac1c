"""The sizes of an expandable segment's address range with which requests are served from the same blocks.

A free block counts with the unmapped addresses behind it where a request chooses among free blocks (get_free_block in
c10/cuda/CUDACachingAllocator.cpp). Behind the last block these are all addresses that are left of the segment, which
has 9/8 of the device's memory. So the choice can differ on devices of two sizes, even if neither refuses a request.
"""

from __future__ import annotations

#: A device's memory from which on, and below which, a pool serves all requests from the same blocks, in bytes. The
#: second is None if no larger memory changes that.
Totals = tuple[int, int | None]


def space_of(total: int, page: int) -> int:
    """Return the addresses of a segment on a device with `total` bytes of memory, in bytes."""
    return -(-(total + total // 8) // page) * page


class SameSpaces:
    """The sizes of the only segment of a pool with which all requests so far are served from the same blocks.

    Attributes:
        least: The smallest of these sizes.
        below: The smallest larger size with which some request is served from another block. None if there is none.
    """

    __slots__ = ("below", "least")

    def __init__(self, least: int = 0, below: int | None = None) -> None:
        self.least = least
        self.below = below

    def saved(self) -> SameSpaces:
        """Return a copy."""
        return SameSpaces(self.least, self.below)

    def compare(self, space: int, excess: int) -> None:
        """Add a comparison of what the last block reaches with a size that it must reach.

        `space`: the size of the segment. `excess`: by how much the last block reaches more. Negative if it reaches
        less.
        """
        if excess >= 0:
            self.least = max(self.least, space - excess)
        elif self.below is None or space - excess < self.below:
            self.below = space - excess

    def only(self, space: int, page: int) -> None:
        """Exclude all other sizes, because there is a second segment. Sizes are whole pages."""
        self.least = max(self.least, space)
        self.below = space + page if self.below is None else min(space + page, self.below)

    def totals(self, page: int, unit: int = 1) -> Totals:
        """Return the memory of devices whose segments certainly have one of these sizes.

        `unit`: the bytes in which the sizes and `page` count.
        """
        least = -(-8 * self.least * unit // 9)
        return least, None if self.below is None else 8 * max(0, self.below - page) * unit // 9 + 1
