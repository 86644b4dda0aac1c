"""The addresses of an expandable segment as flat lists: mapped, unmapped and free addresses.

Sizes and addresses are in units of 512 bytes (see `flat_expandable`).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from copy import copy
from typing import TYPE_CHECKING

from calculator.allocator.address_space import SameSpaces

if TYPE_CHECKING:
    from calculator.allocator.flat_pool import Placed


class Range:
    """The addresses of small or of large requests.

    Attributes:
        page: The size of a page.
        space: The size of a segment.
        same: The sizes of a segment with which the requests so far are served from the same blocks.
        start, next: The first address, and the first address of the next segment.
        free: The keys of free blocks, in order. A key has the address in the lowest `shift` bits and the size above.
        starts, ends: The end of each free block by its start, and the start by its end.
        unmapped: The start addresses of unmapped blocks, in order.
        unmapped_starts, unmapped_ends: The end of each unmapped block by its start, and the start by its end.
    """

    __slots__ = (
        "ends",
        "free",
        "next",
        "page",
        "same",
        "shift",
        "space",
        "start",
        "starts",
        "unmapped",
        "unmapped_ends",
        "unmapped_starts",
    )

    def __init__(self, shift: int, page: int, start: int, space: int) -> None:
        self.shift = shift
        self.page = page
        self.space = space
        self.same = SameSpaces()
        self.start = self.next = -(-start // page) * page
        self.free: list[int] = []
        self.starts: dict[int, int] = {}
        self.ends: dict[int, int] = {}
        self.unmapped: list[int] = []
        self.unmapped_starts: dict[int, int] = {}
        self.unmapped_ends: dict[int, int] = {}

    def saved(self) -> Range:
        """Return a copy of the range in the same state."""
        other = copy(self)
        other.same = self.same.saved()
        for name in ("free", "starts", "ends", "unmapped", "unmapped_starts", "unmapped_ends"):
            setattr(other, name, getattr(self, name).copy())
        return other

    def resize(self, space: int) -> None:
        """Change the size of the only segment, without mapping more of it."""
        if self.next > self.start:
            end = self.start + self.space
            address = self.unmapped_ends[end]
            self._drop_unmapped(address)
            self.add_unmapped(address, self.start + space)
            self.next = self.start + space + self.page
        self.space = space

    def best_fit(self, place: int) -> int:
        """Return the index of the best free block, to use instead of one to which pages can be added."""
        free, starts, unmapped, shift = self.free, self.starts, self.unmapped_starts, self.shift
        mask = (1 << shift) - 1
        best = free[place]
        behind = starts[best & mask]
        end = unmapped[behind]
        reach, is_last = (best >> shift) + end - behind, end == self._first_segment_end
        for other in range(place + 1, len(free)):
            if reach <= best >> shift:
                break
            best = free[other]
            behind = starts[best & mask]
            end = unmapped.get(behind, behind)
            new = (best >> shift) + end - behind
            if is_last:
                self.same.compare(self.space, reach - new - 1)
            is_last = end == self._first_segment_end and end > behind
            if is_last:
                self.same.compare(self.space, new - reach)
            if new >= reach:
                break
            place, reach = other, new
        return place

    @property
    def _first_segment_end(self) -> int:
        """The end of the first segment."""
        return self.start + self.space

    def room(self, size: int) -> Placed:
        """Return the first free or unmapped block from which a request has room, in a new segment if needed."""
        for address in self.unmapped:
            start = self.ends.get(address, address)
            end = start
            while end - start < size and (end in self.starts or end in self.unmapped_starts):
                end = self.starts.get(end) or self.unmapped_starts[end]
            if end == self._first_segment_end:
                self.same.compare(self.space, end - start - size)
            if end - start >= size:
                return start, self.starts.get(start) or self.unmapped_starts[start]
        if self.next > self.start:
            self.same.only(self.space, self.page)
        address, end = self.next, self.next + self.space
        # A gap of one page keeps two segments apart.
        self.next = end + self.page
        self.add_unmapped(address, end)
        return address, end

    def map(self, address: int, pages: int) -> Placed:
        """Map pages at the start of an unmapped block. Return the free block that contains them."""
        end = self._drop_unmapped(address)
        behind = address + pages
        if end == self._first_segment_end:
            self.same.compare(self.space, end - behind - self.page)
        if end > behind:
            self.add_unmapped(behind, end)
        if behind in self.starts:
            behind = self.take(behind)
        if address in self.ends:
            address = self.ends[address]
            self.take(address)
        self.add(address, behind)
        return address, behind

    def unmap(self, address: int) -> int:
        """Unmap every whole page of a free block. Return the size of these pages."""
        behind = self.starts[address]
        start, end = -(-address // self.page) * self.page, behind // self.page * self.page
        if start >= end:
            return 0
        self.take(address)
        if start > address:
            self.add(address, start)
        if end < behind:
            self.add(end, behind)
        size = end - start
        if end in self.unmapped_starts:
            end = self._drop_unmapped(end)
        if start in self.unmapped_ends:
            start = self.unmapped_ends[start]
            self._drop_unmapped(start)
        self.add_unmapped(start, end)
        return size

    def add(self, address: int, behind: int) -> None:
        """Add a free block."""
        self.starts[address] = behind
        self.ends[behind] = address
        insort(self.free, behind - address << self.shift | address)

    def take(self, address: int) -> int:
        """Remove a block from the free ones. Return its end address."""
        behind = self.starts.pop(address)
        del self.ends[behind]
        del self.free[bisect_left(self.free, behind - address << self.shift | address)]
        return behind

    def add_unmapped(self, address: int, behind: int) -> None:
        """Add an unmapped block."""
        self.unmapped_starts[address] = behind
        self.unmapped_ends[behind] = address
        insort(self.unmapped, address)

    def _drop_unmapped(self, address: int) -> int:
        behind = self.unmapped_starts.pop(address)
        del self.unmapped_ends[behind]
        self.unmapped.remove(address)
        return behind
