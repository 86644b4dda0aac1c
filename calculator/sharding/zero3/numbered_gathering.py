"""A step of one micro-batch in which each copy of the repeated layers gathers at the calls of the first one.

Parameters have numbers. Each copy makes the same calls with other numbers.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from calculator.sharding.zero3.layout import Layout
from calculator.sharding.zero3.numbered_parameters import NumberedParameters
from calculator.sharding.zero3.program import BACKWARD
from calculator.sharding.zero3.track import Track, with_more

if TYPE_CHECKING:
    from calculator.sharding.zero3.first_copy import FirstCopy
    from calculator.sharding.zero3.followed import Followed
    from calculator.sharding.zero3.layout import PlacedSegment
    from calculator.sharding.zero3.numbered_calls import StepCalls
    from calculator.sharding.zero3.program import Program
    from calculator.sharding.zero3.sizes import Sizes


class NumberedGathering:
    """The weights that a step gathers, with the attributes of `Gathering`."""

    #: A step of one micro-batch has no longer one, generates nothing, and gathers nothing for vLLM.
    first = None
    in_generation = in_sync = copied = 0

    def __init__(self, calls: StepCalls, followed: Followed, sizes: Sizes, *, keeps_loss: bool) -> None:
        self.program: Program | FirstCopy = calls.program
        self.followed = followed
        layout = Layout(calls, followed)
        self._gathers = NumberedParameters(layout, sizes)
        self._state: object = None
        self._gathered_and_released: object = None
        #: Whether the skipped copies behave like those next to them.
        self.is_steady = True
        tracks = self._tracks(layout)
        gathers = self._gathers
        #: Whether all that is gathered is known.
        self.is_known = self.is_steady and gathers.end(calls.lingering)
        #: The bytes that are gathered when the optimizer's step begins, those that stay, and those that are alive once
        #: persistent parameters are gathered again.
        self.at_step = gathers.bytes
        gathers.release_all()
        self.kept = gathers.bytes
        self.persistent = self.kept + layout.persistent_bytes
        #: The bytes that all-gathers result in.
        self.sent = gathers.sent + layout.persistent_payload
        #: The weights that each segment gathers, with those that the graph of the loss before keeps.
        self.passes = [[*with_more(tracks, self.kept, calls.program.backward)] if keeps_loss and self.kept else tracks]

    def _tracks(self, layout: Layout) -> list[Track]:
        gathers, tracks = self._gathers, []
        for placed in layout.segments:
            before, sent, available = gathers.bytes, gathers.sent, gathers.available
            moments = gathers.follow(placed)
            tracks.append(Track(placed.segment, before, gathers.bytes, moments))
            change = gathers.sent - sent, gathers.available - available
            if placed.slot is not None and self.followed.skipped:
                self._compare(placed, tracks[-1], *change)
                if not self.is_steady:
                    break
            count = placed.segment.skipped
            gathers.bytes += count * (gathers.bytes - before)
            gathers.sent += count * change[0]
            gathers.available += count * change[1]
        return tracks

    def _compare(self, placed: PlacedSegment, track: Track, sent: int, available: int) -> None:
        """Compare a copy that is next to the skipped ones with the copy before it, as `Steady` does."""
        before, gathers = self.followed.before, self._gathers
        backward = placed.segment.window == BACKWARD
        first, last = (before + 1, before) if backward else (before - 2, before - 1)
        if placed.slot == first:
            self._state = gathers.state(placed)
        elif placed.slot == last:
            self._gathered_and_released = _gathered_and_released(track, sent, available)
            slack = -inf if gathers.limited and available < 0 else gathers.slack
            is_alike = available * (self.followed.skipped + 1) < slack
            is_same = gathers.state(placed) == self._state
            self.is_steady = is_same and is_alike and not gathers.looks_ahead_to(placed.window_end)
        elif placed.slot == before:
            self.is_steady = _gathered_and_released(track, sent, available) == self._gathered_and_released


def _gathered_and_released(track: Track, sent: int, available: int) -> object:
    """Return the parameters that a copy gathered and released."""
    before = track.before
    return sent, available, *[(at, most - before, after - before) for at, most, after, *_ in track.moments]
