"""The bytes that stage 3 has gathered in a segment of a pass, event by event."""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from calculator.sharding.zero3.parameters import Partitioned
    from calculator.sharding.zero3.segment import Segment


class Moment(NamedTuple):
    """An event: its position on the tape, the most bytes gathered while it runs, and the bytes gathered after it.

    `gradient` is the parameter whose gradient is ready, or None. `is_event` is false if a graph is freed before an
    event. `number` is the index of the event in its segment.
    """

    position: int
    most: int
    after: int
    gradient: Partitioned | None = None
    is_event: bool = True
    number: int = 0


#: A moment as a plain tuple.
Happening = tuple[int, int, int, "Partitioned | None", bool, int]


class Track(NamedTuple):
    """The gathered bytes in a segment: at its start, at its end, and at its moments.

    `moments` are the events that gather or release something, and those at which a gradient is ready. In a run without
    a graph, `run` is its number, and `rows_left` the micro-batches whose rows are still to come in it. `more` bytes are
    gathered throughout in addition.
    """

    segment: Segment
    before: int
    after: int
    moments: Sequence[Happening]
    run: int = 0
    rows_left: int = 0
    more: int = 0

    @property
    def whole(self) -> Track:
        """The same track with the additional bytes in all of its figures."""
        if not self.more:
            return self
        moments = _with_more_bytes(self.moments, self.more)
        return self._replace(before=self.before + self.more, after=self.after + self.more, moments=moments, more=0)

    def all_moments(self) -> Iterator[Moment]:
        """Yield the moments of all events."""
        after, at = self.before, 0
        for number, (position, *_) in enumerate(self.segment.events):
            is_left_out = True
            while at < len(self.moments) and self.moments[at][-1] == number:
                moment = Moment(*self.moments[at])
                yield moment
                after, is_left_out = moment.after, not moment.is_event
                at += 1
            if is_left_out:
                yield Moment(position, after, after, number=number)


def with_more(tracks: Iterable[Track], size: int, until: int) -> Iterator[Track]:
    """Yield the tracks of a micro-batch with some more bytes, which are freed after the position `until`."""
    for track in tracks:
        at = bisect_right(track.segment.events, until, key=itemgetter(0)) if size else 0
        if not size or at == len(track.segment.events):
            yield track._replace(more=size) if size else track
            continue
        before, moments = track.before + size, track.moments
        first = _with_more_bytes([moment for moment in moments if moment[-1] < at], size)
        alive = first[-1][2] if first else before
        freed = Moment(until, alive, alive - size, is_event=False, number=at)
        moments, size = [*first, freed, *[moment for moment in moments if moment[-1] >= at]], 0
        yield track._replace(before=before, moments=moments)


def _with_more_bytes(moments: Sequence[Happening], size: int) -> list[Happening]:
    """Return moments with some more bytes."""
    if not moments:
        return []
    positions, mosts, afters, *others = zip(*moments, strict=True)
    return [*zip(positions, map(size.__add__, mosts), map(size.__add__, afters), *others, strict=True)]
