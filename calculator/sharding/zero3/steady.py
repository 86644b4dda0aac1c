"""A check that the skipped copies of the repeated layers behave like those next to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.sharding.zero3.program import BACKWARD

if TYPE_CHECKING:
    from collections.abc import Hashable

    from calculator.sharding.zero3.gathering import Gathering
    from calculator.sharding.zero3.track import Track


class Steady:
    """The comparison of the copies around the skipped ones, in both passes of a micro-batch.

    The last copy before the skipped ones must leave the state that it found, relative to its position. It must gather
    nothing that belongs behind the copies. In the forward pass, the first copy after the skipped ones must gather and
    release the same. Copies only differ in how far away the next use of a parameter is, and that distance decreases
    from copy to copy. In the backward pass, a parameter is used again in the same copy or not at all.
    """

    def __init__(self, gathering: Gathering) -> None:
        self._gathering, followed = gathering, gathering.followed
        self._before = followed.before
        self._slots = followed.slots if followed.skipped else {}
        self._state: Hashable = None
        self._gathered_and_released: Hashable = None
        #: Whether all comparisons so far were equal.
        self.all_equal = True

    def compare(self, track: Track, sent: int, available: int, slack: float) -> None:
        """Compare a copy that is next to the skipped ones with the copy before it.

        If each copy leaves more parameters gathered, its prefetches depend on how many copies came before it, unless
        there is `slack` for all of them.
        """
        copy, before = track.segment.copy, self._before
        slot = None if copy is None else self._slots.get(copy)
        window = track.segment.window
        backward = window == BACKWARD
        first, last = (before + 1, before) if backward else (before - 2, before - 1)
        if slot == first:
            self._state = self._gathering.state(slot if backward else slot + 1)
        elif slot == last:
            state = self._gathering.state(slot if backward else slot + 1)
            self._gathered_and_released = _gathered_and_released(track, sent, available)
            looks_ahead = window is None or self._gathering.looks_ahead(window)
            is_alike = available * (self._gathering.followed.skipped + 1) < slack
            self.all_equal = self.all_equal and state == self._state and not looks_ahead and is_alike
        elif slot == before:
            self.all_equal = (
                self.all_equal and _gathered_and_released(track, sent, available) == self._gathered_and_released
            )


def _gathered_and_released(track: Track, sent: int, available: int) -> Hashable:
    """Return the parameters that a copy gathered and released."""
    moments = [(at, most - track.before, after - track.before) for at, most, after, *_ in track.moments]
    return sent, available, (*moments,)
