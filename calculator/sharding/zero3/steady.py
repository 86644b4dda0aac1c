"""Whether the copies of the repeated layers that are skipped do as those next to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.sharding.zero3.program import BACKWARD

if TYPE_CHECKING:
    from collections.abc import Hashable

    from calculator.sharding.zero3.gathering import Gathering, Track


class Steady:
    """The comparison of the copies around the skipped ones, in both passes of a micro-batch.

    The copy before them, and the first one after them, have to find and to leave the same state, relative to their
    place, and to gather the same in between. Then so do all copies between: what differs among them is how far away the
    next use of a parameter is, and that grows or falls from the one to the other.
    """

    def __init__(self, gathering: Gathering) -> None:
        self._gathering, followed = gathering, gathering.followed
        self._before = followed.before
        self._slots = followed.slots if followed.skipped else {}
        self._keeps = False
        self._state: Hashable = None
        self._done: Hashable = None
        self._is_so = True

    def compare(self, track: Track, sent: int, available: int) -> None:
        """Compare a copy with those before it, if all are next to the skipped ones."""
        copy, before = track.segment.copy, self._before
        slot = None if copy is None else self._slots.get(copy)
        window = track.segment.window
        backward = window == BACKWARD
        near = (before + 1, before, before - 1) if backward else (before - 2, before - 1, before)
        if slot not in near:
            return
        state = self._gathering.state(slot if backward else slot + 1)
        if slot == near[0]:
            self._state = state
            return
        gathered = [(at, most - track.before, after - track.before) for at, most, after, *_ in track.moments]
        done = sent, available, gathered
        self._keeps = self._keeps or available != 0
        self._is_so = self._is_so and state == self._state
        if slot == near[1]:
            self._done = done
            return
        self._is_so = self._is_so and done == self._done and not (window is None or self._gathering.looks_ahead(window))

    def ends(self) -> bool:
        """Whether all comparisons of a pass found the same. A prefetch that is limited depends on all before it."""
        return self._is_so and not (self._keeps and self._gathering.is_limited)
