"""The rows that TRL packs samples into, by best-fit decreasing on a histogram of lengths.

Source: trl/data_utils.py, _pack_bfd and pack_dataset.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from calculator.common.names import PackingStrategy


class PackedRows(NamedTuple):
    """Packed rows: their distinct lengths in ascending order with the number of rows of each.

    `samples` is the number of samples in all rows.
    """

    pairs: tuple[tuple[int, int], ...]
    samples: int

    def samples_in(self, rows: int) -> int:
        """Return the number of samples in a number of rows, on average, rounded up."""
        return -(-self.samples * rows // sum(count for _, count in self.pairs))


def packed(lengths: tuple[tuple[int, int], ...], most: int, strategy: PackingStrategy) -> PackedRows:
    """Pack samples, given by length and number, into rows of at most `most` tokens.

    A longer sample is cut (bfd), or split into samples of `most` tokens and a rest (bfd_split).
    """
    samples: Counter[int] = Counter()
    for length, count in lengths:
        if length <= most or strategy == "bfd":
            samples[min(length, most)] += count
            continue
        samples[most] += count * (length // most)
        samples[length % most or most] += count if length % most else 0
    free = _Free()
    for length in sorted(samples, reverse=True):
        free.place(length, samples[length], most)
    rows = {most - space: count for space, count in free.rows.items() if count}
    return PackedRows(tuple(sorted(rows.items())), sum(samples.values()))


class _Free:
    """The distinct numbers of free tokens of rows in ascending order, and the number of rows with as many."""

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}
        self._order: list[int] = []

    def place(self, length: int, count: int, most: int) -> None:
        """Place samples of a length, each in the row with the least room that fits it, or in a new row."""
        while count:
            at = bisect_left(self._order, length)
            space = self._order[at] if at < len(self._order) else most
            per_row = space // length
            if at == len(self._order):
                rows = -(-count // per_row)
            else:
                rows = min(self.rows[space], -(-count // per_row))
                self._add(space, -rows)
            whole = min(rows, count // per_row)
            self._add(space - per_row * length, whole)
            count -= whole * per_row
            if whole < rows:
                self._add(space - count * length, 1)
                count = 0

    def _add(self, space: int, rows: int) -> None:
        """Add rows with some free tokens.

        An entry without rows is removed.
        """
        if space not in self.rows:
            insort(self._order, space)
        self.rows[space] = self.rows.get(space, 0) + rows
        if not self.rows[space]:
            del self.rows[space]
            del self._order[bisect_left(self._order, space)]
