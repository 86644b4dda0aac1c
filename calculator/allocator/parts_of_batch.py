"""The events of a window of a micro-batch, and the chunks of a pool that they are cut into (see `chunks`)."""

from __future__ import annotations

import re
from itertools import accumulate, compress
from operator import invert
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from calculator.allocator.chunk import Chunk
    from calculator.training_step.periods import Window

#: The code of the free of a placed tensor. Those of a transient's free and allocation are 0 and 1, and that of a placed
#: tensor's allocation is 3.
_PLACED_FREE = 2
#: The codes of a chunk: those of its gap, and those of the events after it.
_CHUNK = re.compile(rb"([\x00-\x02]*)((?:\x03[\x02\x03]*)?)")
#: By code, by how much an event of a transient changes the number of those that are alive.
_STEPS = -1, 1


class Part(NamedTuple):
    """The events of a window, with the rows of the short micro-batch.

    Attributes:
        events: The events.
        rows: The row of each event, if `open` is not None.
        open: The events of rows that are alive before or after the window, each with its index. None if the window has
            rows of a period, or if some events are left out.
    """

    events: Sequence[int | None]
    rows: Sequence[int] = ()
    open: Sequence[tuple[int, int]] | None = None

    @classmethod
    def of(cls, window: Window, short: Sequence[int | None], base: int) -> Part:
        """Return the events of a window. Rows from `base` on are those of periods, or workspaces."""
        events = window.events
        if window.lowest or short is not events:
            return cls(short)
        rows = _rows_of(events)
        if max(rows, default=base) >= base:
            return cls(short)
        first, last = dict(zip(reversed(rows), reversed(events), strict=True)), dict(zip(rows, events, strict=True))
        freed = compress(first, map((0).__gt__, first.values()))
        left = {*compress(last, map((0).__le__, last.values())), *freed}
        places = compress(range(len(rows)), map(left.__contains__, rows))
        return cls(events, rows, [(at, events[at]) for at in places])


def cut(
    events: Sequence[int],
    numbers: Sequence[int | None],
    codes: bytes,
    alive: dict[int, None],
    begin: Callable[[], Chunk],
) -> Iterator[Chunk]:
    """Cut a window's events of a pool into chunks.

    `numbers` are the events with rows of the short micro-batch. `alive` has the live transients by these rows, and is
    kept up to date. `begin` returns a new chunk.
    """
    for found in _CHUNK.finditer(codes):
        start, (middle, end) = found.start(), found.span(2)
        if start == end > 0:
            break
        chunk, gap, own = begin(), codes[start:middle], numbers[start:middle]
        chunk.gap = chunk.transients = [*events[start:middle]]
        chunk.placed, chunk.ends_stretch = [*events[middle:end]], middle < end
        if _PLACED_FREE in gap:
            is_placed = [*map(_PLACED_FREE.__eq__, gap)]
            are_transients = [*map(_PLACED_FREE.__ne__, gap)]
            chunk.frees = [*compress(chunk.gap, is_placed)]
            chunk.transients, own = [*compress(chunk.gap, are_transients)], [*compress(own, are_transients)]
            gap = gap.replace(bytes([_PLACED_FREE]), b"")
        chunk.counts = [*compress(accumulate(map(_STEPS.__getitem__, gap), initial=len(alive)), gap)]
        chunk.allocates = bool(chunk.counts)
        _follow(alive, cast("Sequence[int]", own))  # an event without a number is that of a placed tensor
        yield chunk


def _rows_of(events: Sequence[int]) -> list[int]:
    """Return the row of each event."""
    return [*map(max, events, map(invert, events))]


def _follow(alive: dict[int, None], events: Sequence[int]) -> None:
    """Add the rows that events allocate and do not free to the live ones, and remove those that they free."""
    last = dict(zip(_rows_of(events), events, strict=True))
    for row in [row for row in alive if row in last]:
        del alive[row]
    alive.update(dict.fromkeys(compress(last, map((0).__le__, last.values()))))
