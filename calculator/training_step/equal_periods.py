"""Three periods of layers, the second of which represents all later ones, the last one included.

This holds if the second and the third period have the same events, although one is between two periods and the other
comes last. Each row of the second period then has a partner: the row at the same place in the third one. The rows of
neighbors have partners too. Where the second period frees a row of the first one, the third frees one of the second.
Where the second frees a row of the third one, the third frees one that the code after the layers allocates.

A last period that has the first matrix product of the backward pass is listed apart: a workspace is allocated in it.
"""

from __future__ import annotations

from itertools import chain, compress, groupby
from operator import ne
from typing import TYPE_CHECKING, ClassVar

from calculator.training_step.periods import NONE, Periods, Window, after_product, once, passing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.engine.tape import Allocation


class EqualPeriods(Periods):
    """The events of three periods, the second of which represents `more` periods after it and the last one.

    Its rows are renumbered as those of `Periods` are, from `base + stride` on. The numbers from `base` on are those of
    rows that it frees of the period before. What the last period frees of the code after the layers has the numbers of
    another period after it.
    """

    __slots__ = ("_lists_last",)

    interpreted: ClassVar[int] = 3

    def _partners(self, rows: Sequence[Allocation]) -> list[list[int]] | None:
        """Return the rows of the first period, the second, the third, and of the code after them, at equal indices.

        `NONE` stands where there is no such row. Rows of the code are left out if the last period is listed apart.
        Return None if the second and the third period are not equal.
        """
        self._lists_last = self._multiplies_first(rows)
        passes = [(self.events[slice(*self._forward(n))], self._backward_events(n)) for n in (1, 2)]
        second, third = ([*forward, *backward] for forward, backward in passes)
        if [*map(len, passes[0])] != [*map(len, passes[1])]:
            return None
        partners = dict(zip(*([event for event in own if event >= 0] for own in (second, third)), strict=False))
        outer = _pairs_of_others(second, third, partners)
        if outer is None:
            return None
        row_of_partner = {other: row for row, other in partners.items()}
        first_partners = {other: row for row, other in outer if other in partners}
        code_partners = {row_of_partner[row]: other for row, other in outer if row in row_of_partner}
        partners.update(
            (row, other) for row, other in outer if row not in row_of_partner and other not in first_partners
        )
        inner = passing(passes[0])
        own = [row for row in partners if row not in inner]
        outside = self._events_outside()
        around = {*chain.from_iterable(outside)}
        if not all(_end_alike(row, partners[row], around, first_partners, code_partners) for row in own):
            return None
        shared = {row: partners[row] for row in own if row not in code_partners and (row in around or ~row in around)}
        if shared and not all(_are_adjacent(events, shared) for events in outside):
            return None
        kinds, others = ([rows[row] for row in members] for members in zip(*partners.items(), *outer, strict=True))
        if kinds != others:
            return None
        self.freed_by_first = code_partners
        members = [[first_partners.get(row, NONE) for row in own], own, [partners[row] for row in own]]
        return members if self._lists_last else [*members, [code_partners.get(row, NONE) for row in own]]

    def _multiplies_first(self, rows: Sequence[Allocation]) -> bool:
        """Return whether the last period has the first matrix product of the backward pass."""
        if not self.has_backward:
            return False
        start, end = self._backward(2)
        before, own = self.events[self.marks["backward"] : start], self.events[start:end]
        products = self.products
        return after_product(before, rows, products) is None and after_product(own, rows, products) is not None

    def _events_outside(self) -> list[list[int]]:
        """Return the events before, between and after the periods."""
        backward = [self._backward(2)[0], self._backward(1)[1]] if self.has_backward else []
        ends = [0, self._forward(1)[0], self._forward(2)[1], *backward, len(self.events)]
        return [self.events[start:end] for start, end in zip(ends[::2], ends[1::2], strict=True)]

    def forward(self) -> list[Window]:
        """Return the forward pass, with the second period once for each period that it represents, in order."""
        start, end = self._forward(1)
        _, last = self._forward(2)
        by = self.stride
        return [
            *self._windows_outside(0, start),
            Window(self.events[start:end], self.base, range(0, (self.copies + 1) * by, by)),
            *self._last(end, last),
            *self._windows_outside(last, self.marks["backward"]),
        ]

    def backward(self) -> list[Window]:
        """Return the backward pass, with the second period once for each period that it represents, in reverse."""
        if not self.has_backward:
            return [once(self.outside(self.marks["backward"], self.marks["end"]))]
        start, end = self._backward(1)
        first, _ = self._backward(2)
        by = self.stride
        return [
            once(self.outside(self.marks["backward"], first)),
            *self._last(first, start),
            Window(self.events[start:end], self.base, range(self.copies * by, -1, -by)),
            once(self.outside(end, self.marks["end"])),
        ]

    def _last(self, start: int, end: int) -> list[Window]:
        """Return the window of the last period if it is listed apart."""
        if not self._lists_last:
            return []
        return [Window(self.events[start:end], self.base + self.stride, (self.copies * self.stride,))]


def _pairs_of_others(
    second: Sequence[int], third: Sequence[int], partners: dict[int, int]
) -> list[tuple[int, int]] | None:
    """Return the pairs of other rows that two periods free at the same place.

    Return None if they do not allocate and free their own rows in the same order.
    """
    numbers = {**partners, **{~row: ~other for row, other in partners.items()}}
    differing = map(ne, map(numbers.get, second), third)
    pairs = [(~event, ~other) for event, other in compress(zip(second, third, strict=True), differing)]
    own = {*partners.values()}
    if any(row < 0 or other < 0 or row in partners or other in own for row, other in pairs):
        return None
    return pairs


def _end_alike(
    row: int, other: int, around: set[int], first_partners: dict[int, int], code_partners: dict[int, int]
) -> bool:
    """Return whether the code around the periods frees a row of the second period as it frees the third one's partner.

    `around` are its events. It only frees the partner of a row that the third period frees, and only frees a row whose
    partner the second period frees.
    """
    if row in first_partners:
        return ~other in around and row not in code_partners
    return ~row in around if row in code_partners else (~row in around) == (~other in around)


def _are_adjacent(events: Sequence[int], partners: dict[int, int]) -> bool:
    """Return whether events of rows of the second period come right before or after those of the third one.

    Then it is certain where those of the periods between them come.
    """
    numbers = {**partners, **{~row: ~other for row, other in partners.items()}}
    at = 0
    for is_own, group in groupby(events, numbers.__contains__):
        own = [*group]
        wanted, end = [*map(numbers.get, own)], at + len(own)
        if is_own and wanted not in (events[end : end + len(own)], events[max(0, at - len(own)) : at]):
            return False
        at = end
    return True
