"""The peak moments of a step under stage 3.

They include the micro-batch's own tensors, the gathered weights, and the buffers of the reduction.
"""

from __future__ import annotations

from operator import add, itemgetter
from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE, allocated
from calculator.sharding.zero3.parameters import ELEMENTS, Live
from calculator.sharding.zero3.program import BACKWARD, FORWARD
from calculator.sharding.zero3.reduction import Bucket
from calculator.training_step.zero3.moments import EMPTY, Batch, First, PeakMoment, Reading, Repeats, Skipped

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from calculator.common.dtype import DType
    from calculator.engine.live_tensors import StorageCounts
    from calculator.sharding.zero3.first_copy import FirstCopy
    from calculator.sharding.zero3.gathering import Gathering
    from calculator.sharding.zero3.numbered_gathering import NumberedGathering
    from calculator.sharding.zero3.program import Program
    from calculator.sharding.zero3.segment import Segment
    from calculator.sharding.zero3.sizes import Sizes
    from calculator.sharding.zero3.track import Track
    from calculator.training_step.zero3.curve import Curve

_MOST, _GRADIENT = itemgetter(1), itemgetter(3)


class Passes:
    """The micro-batches of a step in the steady state. `first` is the first one where it does more than the others.

    `keeps_moments`: whether to store all moments, for the peak of each layer, or only the peak moments.
    """

    def __init__(
        self,
        gathering: Gathering | NumberedGathering,
        curve: Curve,
        first: First | None,
        sizes: Sizes,
        dtype: DType,
        *,
        keeps_moments: bool = False,
    ) -> None:
        self._keeps_moments = keeps_moments
        self._period = gathering.followed.period
        self._reducing = Live()
        self._bucket = Bucket(sizes, self._reducing, dtype)
        #: The peak moments of the forward and the backward pass.
        self.forward = self.backward = EMPTY
        #: The micro-batches that are equal.
        self.batches: list[Batch] = []
        self._repeats: Repeats = ()
        self._first: First | None = None
        #: What does not exist yet in a segment, and its bytes.
        self._missing: StorageCounts | None = None
        self._less = 0
        #: The peak moments of ranges of events, which all copies share: a position, an event, and the bytes.
        self._peaks_by_range: dict[tuple[int, int, int], list[tuple[int, int, int]]] = {}
        #: The same for the events of segments, by their positions.
        self._known_events: dict[
            tuple[int, int, int, tuple[int, ...]], tuple[list[tuple[int, int]], list[int], list[int]]
        ] = {}
        self._program: Program | FirstCopy
        for number, tracks in enumerate(gathering.passes):
            self._batch, self._first = Batch([], []), None
            if number == 0 and gathering.first is not None and first is not None:
                self._program, self._curve, self._first = gathering.first, first.curve, first
            else:
                self._program, self._curve = gathering.program, curve
                self.batches.append(self._batch)
            if number == 0 and gathering.in_sync:
                begin, self._repeats = self._program.forward, tracks[0].segment.repeats
                self._note(begin, begin, self._curve.at(begin, self._repeats) + gathering.in_sync, gathering.in_sync)
            self._bucket.is_last = number == len(gathering.passes) - 1
            self._least = self._in_last_copy(tracks)
            for track in tracks:
                self._follow(track)
            self._reducing.reset()
            self._bucket.reduce()
            end, left = self._program.end, tracks[-1].whole.after
            self._note(end, end, self._curve.at(end, self._repeats) + left, left)

    def _in_last_copy(self, tracks: Sequence[Track]) -> int:
        """Return the bytes in the last copy of the forward pass when the most is gathered. -1 without copies."""
        last = next((track for track in reversed(tracks) if track.segment.window == FORWARD and track.moments), None)
        if last is None:
            return -1
        curve, repeats = self._curve, last.segment.repeats
        position, most, *_ = max(last.moments, key=_MOST)
        return curve.at(position, repeats) + most + last.more

    def _follow(self, track: Track) -> None:
        """Read a segment, and the skipped copies after it."""
        segment = track.segment
        self._repeats = segment.repeats
        self._missing = self._first.missing(track) if self._first is not None and track.rows_left else None
        self._less = 0 if self._missing is None else self._missing.bytes
        has_backward = segment.start <= self._program.backward < segment.end
        if not (self._keeps_moments or has_backward) and self._read_if_fitting(track):
            return
        if not (self._keeps_moments or segment.skipped or has_backward):
            self._read_peaks(track.whole)
            return
        readings = [*self._readings(track.whole)]
        for reading in readings:
            self._read(reading)
        if segment.skipped:
            window = segment.window or 0
            gathered = track.after - track.before
            growth = self._curve.growth[window] + gathered
            alike = self._skip(readings, window, segment.skipped, growth, gathered) if window == BACKWARD else None
            self._batch.skipped.append(Skipped(readings, segment.repeats, segment.skipped, growth, alike))

    def _read_if_fitting(self, track: Track) -> bool:
        """Read a segment and the skipped copies after it at once if all of their gradients fit the bucket.

        Return whether they do. No moment is read where a bound shows that none is fuller, nor, in the forward pass,
        that one of the last copy is: nothing is reduced there. The bytes of skipped copies grow by the same amount from
        one to the next, and the followed copies on both sides have the extremes.
        """
        ready = [*filter(None, map(_GRADIENT, track.moments))]
        times = 1 + (track.segment.skipped if track.segment.window == BACKWARD else 0)
        elements = sum(map(ELEMENTS, ready)) * times
        start, end = track.segment.start, track.segment.end
        if self._first is not None or self._bucket.orders or not self._bucket.takes(elements) or start >= end:
            return False
        self._bucket.take(ready, elements, times)
        curve, repeats = self._curve, track.segment.repeats
        base = curve.without_copies(repeats)
        gathered = max([track.before, *map(_MOST, track.moments)])
        ((_, _, size),) = self._peak_moments(base, start + 1, end + 1)
        bound = size + gathered + track.more + curve.added(repeats)
        is_forward = end <= self._program.backward
        highest = self.forward if is_forward else self.backward
        if bound > highest.bytes and not (is_forward and bound < self._least):
            self._read_at_once(track)
        return True

    def _read_at_once(self, track: Track) -> None:
        """Read the peak moment of a segment whose gradients fit the bucket."""
        # Where only a gradient is ready, no moment is fuller than one before it.
        moments = [moment for moment in track.moments if moment[3] is None]
        positions, mosts, afters, *_ = zip(*moments, strict=True) if moments else ((), (), ())
        curve, repeats = self._curve, track.segment.repeats
        own, before_events, at_events = self._at_events(positions, curve.without_copies(repeats), track.segment)
        gathered = (track.before, *afters)
        between, at = [*map(add, before_events, gathered)], [*map(add, at_events, mosts)]
        most, most_at = max(between), max(at, default=-1)
        index, event_index = between.index(most), at.index(most_at) if at else 0
        added, more = curve.added(repeats) + track.more, track.more
        if most_at > most or (most_at == most and event_index < index):
            self._note(positions[event_index], positions[event_index], most_at + added, mosts[event_index] + more)
        else:
            position, event = own[index]
            self._note(position, event, most + added, gathered[index] + more)

    def _at_events(
        self, positions: tuple[int, ...], base: Sequence[int], segment: Segment
    ) -> tuple[list[tuple[int, int]], list[int], list[int]]:
        """Return the peak moments between events, with the bytes there, and the bytes at the events.

        Copies that gather at the same events share them.
        """
        key = id(base), segment.start, segment.end, positions
        known = self._known_events.get(key)
        if known is None:
            freed, at = self._curve.freed, segment.start
            peaks, sizes, ranges, base_id = [], [], self._peaks_by_range, id(base)
            for position in (*positions, segment.end):
                event, size = position, -1 << 80  # there is no event in between
                if position > at:
                    own = base_id, at + 1, position + 1
                    ((_, event, size),) = (
                        ranges[own] if own in ranges else self._peak_moments(base, at + 1, position + 1)
                    )
                    at = position
                peaks.append((position, event))
                sizes.append(size)
            known = peaks, sizes, [base[position] - freed.get(position, 0) for position in positions]
            self._known_events[key] = known
        return known

    def _read_peaks(self, track: Track) -> None:
        """Read the gradients of a segment, and the peak moments before, between and after them."""
        curve, repeats = self._curve, track.segment.repeats
        added, base, freed = curve.added(repeats), curve.without_copies(repeats), curve.freed
        at, gathered = track.segment.start, track.before
        most, highest, known, of = -1, (0, 0, 0), self._peaks_by_range, id(base)
        for position, own, after, gradient, is_event, _ in track.moments:
            if position > at:
                key = of, at + 1, position + 1
                ((_, event, size),) = known[key] if key in known else self._peak_moments(base, at + 1, position + 1)
                if size + gathered > most:
                    most, highest = size + gathered, (position, event, gathered)
                at = position
            if is_event:
                size = base[position] - freed.get(position, 0) + own
                if gradient is not None:
                    self._note_peak(most, added, highest)
                    most = -1
                    self._read(Reading(position, position, size + added, own, gradient))
                elif size > most:
                    most, highest = size, (position, position, own)
            gathered = after
        end = track.segment.end
        if end > at:
            ((_, event, size),) = self._peak_moments(base, at + 1, end + 1)
            if size + gathered > most:
                most, highest = size + gathered, (end, event, gathered)
        self._note_peak(most, added, highest)

    def _note_peak(self, most: int, added: int, highest: tuple[int, int, int]) -> None:
        """Record the peak moment, if there is one.

        `most` does not include what copies added.
        """
        if most >= 0:
            position, event, gathered = highest
            self._note(position, event, most + added, gathered)

    def _readings(self, track: Track) -> Iterator[Reading]:
        """Yield the peak moments between two events of a segment, and the moments at its events."""
        curve, repeats = self._curve, track.segment.repeats
        added, base, freed = curve.added(repeats), curve.without_copies(repeats), curve.freed
        at, gathered = track.segment.start, track.before
        # Between events at which nothing happens, no moment is fuller. These events only delimit the spans of a line.
        moments = track.all_moments() if self._keeps_moments else track.moments
        for position, most, after, gradient, is_event, _ in moments:
            if position > at:
                yield from self._peaks_between(base, at + 1, position + 1, added + gathered, gathered)
                at = position
            if is_event:
                size = base[position] + added - freed.get(position, 0) + most
                yield Reading(position, position, size, most, gradient)
            gathered = after
        if track.segment.end > at:
            yield from self._peaks_between(base, at + 1, track.segment.end + 1, added + gathered, gathered)

    def _peaks_between(self, base: Sequence[int], start: int, end: int, more: int, gathered: int) -> Iterator[Reading]:
        """Yield the peak moments of a range of events."""
        for first, at, size in self._peak_moments(base, start, end):
            yield Reading(first, at, size + more, gathered)

    def _peak_moments(self, base: Sequence[int], start: int, end: int) -> list[tuple[int, int, int]]:
        """Return the peak moment of a range of events.

        If the backward pass begins inside the range, return the peak moments before and after that.
        """
        key = id(base), start, end
        moments = self._peaks_by_range.get(key)
        if moments is None:
            middle = self._program.backward + 1
            if start < middle < end:
                moments = [_peak_moment(base, start, middle), _peak_moment(base, middle, end)]
            else:
                moments = [_peak_moment(base, start, end)]
            self._peaks_by_range[key] = moments
        return moments

    def _read(self, reading: Reading) -> None:
        """Record a moment. If a gradient is ready, add it to the bucket, which is reduced first if it is full."""
        position, event, size, gathered, gradient = reading
        if gradient is None:
            self._note(position, event, size, gathered)
            return
        bucket, reducing = self._bucket, self._reducing
        if bucket.is_full(gradient):
            bucket.reduce()
        self._note(position, event, size, gathered)
        before = reducing.bytes
        bucket.add(gradient)
        reducing.reset()
        if reducing.bytes == before and not self._keeps_moments:
            return  # fewer bytes than before the gradient was added
        self._note(position, event, size - allocated(gradient.elements, ITEMSIZE[gradient.dtype]), gathered)

    def _skip(
        self, readings: Sequence[Reading], window: int, count: int, growth: int, gathered: int
    ) -> tuple[int, int] | None:
        """Reduce the gradients of skipped copies.

        Their moments are only read if the reduction allocates. Otherwise the bytes grow by the same amount from copy to
        copy, and the followed copies on both sides have the extremes.
        """
        gradients = [reading.gradient for reading in readings if reading.gradient is not None]
        elements = sum([gradient.elements for gradient in gradients])
        bucket, reducing = self._bucket, self._reducing
        before = list(self._repeats)
        state: Hashable = None
        change = -1
        for copy in range(1, count + 1):
            back = copy * self._period if bucket.orders else 0
            if bucket.takes(elements):
                bucket.take([gradient.in_layer(back) for gradient in gradients] if back else gradients, elements)
                state = None
                continue
            self._repeats = (*before[:window], before[window] + copy, *before[window + 1 :])
            left = reducing.bytes
            for position, event, size, own, gradient in readings:
                if gradient is not None or reducing.bytes:
                    moved = gradient.in_layer(back) if back and gradient is not None else gradient
                    self._read(Reading(position, event, size + copy * growth, own + copy * gathered, moved))
            state, last = bucket.state, state
            change, last_change = reducing.bytes - left, change
            if state == last and change == last_change:
                reducing.bytes += (count - copy) * change
                return copy, growth + change
        return None

    def _note(self, position: int, event: int, size: int, gathered: int) -> None:
        """Record the bytes at a moment with those of the reduction, then reset the reduction's maximum."""
        reducing = self._reducing
        total = size + reducing.most - self._less
        if self._keeps_moments:
            self._batch.moments.append((self._repeats, position, total))
        highest = self.forward if position <= self._program.backward else self.backward
        if total > highest.bytes:
            moment = PeakMoment(
                total, event, gathered, reducing.most, self._repeats, self._first is not None, self._missing
            )
            if position <= self._program.backward:
                self.forward = moment
            else:
                self.backward = moment
        reducing.most = reducing.bytes


def _peak_moment(base: Sequence[int], start: int, end: int) -> tuple[int, int, int]:
    """Return the start of a range of events, the first of its peak moments, and the bytes there."""
    size = max(base[start:end])
    return start, base.index(size, start), size
