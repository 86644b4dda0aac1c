"""The segments of a step in order. Parameters have numbers: first those outside of the copies, then each copy's."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING

from calculator.sharding.zero3.numbered_uses import RELEASE_SEVERAL
from calculator.sharding.zero3.parameters import ELEMENTS
from calculator.sharding.zero3.program import BACKWARD
from calculator.sharding.zero3.recorded_calls import RELEASE
from calculator.sharding.zero3.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from calculator.sharding.zero3.followed import Followed
    from calculator.sharding.zero3.numbered_calls import NumberedSegment, StepCalls
    from calculator.sharding.zero3.numbered_uses import NumberedCall
    from calculator.sharding.zero3.parameters import Partitioned

_PAYLOAD, _WHOLE, _WITH_PADDING = attrgetter("payload"), attrgetter("whole"), attrgetter("with_padding")
_DTYPE_AND_PAYLOAD = attrgetter("dtype", "payload")


@dataclass(slots=True, eq=False)
class PlacedSegment:
    """A segment where it runs.

    Attributes:
        segment: The segment.
        calls: Its calls, with the numbers of the parameters of the first copy.
        slot: The index of its copy among the followed ones. None outside of the copies.
        shift: How much larger the numbers of its copy are than those of the first copy.
        from_copy: The same for the copy from which a state at its end is counted.
        begin: The number of modules that are called before it.
        end: The number of modules that are called before its end.
        gap: The elements of the modules between its start and the start of the backward pass of the same copy.
        window_end: The index in the order of modules after all copies of its window.
    """

    segment: Segment
    calls: Sequence[NumberedCall]
    slot: int | None
    shift: int
    from_copy: int
    begin: int
    end: int
    gap: float = 0
    window_end: int = 0


#: A segment of one copy, and where it runs.
Placed = tuple["NumberedSegment", PlacedSegment]


class Layout:
    """The segments of a step, and the parameters in the order in which modules use them."""

    def __init__(self, step: StepCalls, followed: Followed) -> None:
        self._step, self._followed = step, followed
        self.backward = step.program.backward
        #: The number of the first parameter of the copies, and how many parameters a copy has.
        self.first, self.period = len(step.outside), len(step.in_copy)
        copies = len(followed.numbers)
        #: The number of parameters.
        self.count = self.first + self.period * copies
        #: By parameter: its elements, and the bytes that an all-gather results in, those of the whole weight, and those
        #: of the weight with its padding.
        self.elements, self.payloads, self.whole, self.with_padding = (
            [*map(of, step.outside), *[*map(of, step.in_copy)] * copies]
            for of in (ELEMENTS, _PAYLOAD, _WHOLE, _WITH_PADDING)
        )
        outside, in_copy = ([*map(_DTYPE_AND_PAYLOAD, parameters)] for parameters in (step.outside, step.in_copy))
        dtypes = dict.fromkeys([dtype for dtype, _ in (*outside, *in_copy)])
        #: For each dtype, the bytes of an all-gather by parameter. 0 for those of another dtype.
        self.sizes_by_dtype = [
            [*[size * (of == dtype) for of, size in outside], *[size * (of == dtype) for of, size in in_copy] * copies]
            for dtype in dtypes
        ]
        #: The numbers of the persistent parameters.
        self.persistent = {number for number, parameter in enumerate(step.outside) if parameter.persists}
        persistent = [number for number, parameter in enumerate(step.in_copy, self.first) if parameter.persists]
        self.persistent.update([number + slot * self.period for slot in range(copies) for number in persistent])
        self.represents = 1 + followed.skipped
        begin = self.first + followed.before * self.period
        #: The numbers of the parameters that represent those of the skipped copies.
        self.representing = range(begin, begin + self.period) if followed.skipped else range(0)
        self.persistent_bytes = self._sum_of_persistent(_WITH_PADDING)
        self.persistent_payload = self._sum_of_persistent(_PAYLOAD)
        placed = self._place_segments()
        #: The parameters in the order of their uses.
        self.order: list[int] = []
        #: The index of the module that uses each of them. The last is infinite.
        self.places: list[float] = []
        for own, placement in placed:
            shift, begin = placement.shift, placement.begin
            self.order += [shift + number for number in own.order]
            self.places += [begin + place for place in own.places]
        self.places.append(inf)
        self._set_distances(placed)
        self.segments = [placement for _, placement in placed]

    def _sum_of_persistent(self, size: Callable[[Partitioned], int]) -> int:
        """Return the sum over the persistent parameters of all copies."""
        outside, in_copy = (
            sum([size(parameter) for parameter in parameters if parameter.persists])
            for parameters in (self._step.outside, self._step.in_copy)
        )
        return outside + in_copy * self._followed.copies

    def _place_segments(self) -> list[Placed]:
        """Return the segments in order. The backward pass runs the last copy first."""
        followed = self._followed
        placed: list[Placed] = []
        repeats, begin, last = [0, 0], 0, followed.copies - 1
        for own in self._step.segments:
            window = own.segment.window
            backward = window == BACKWARD
            before_gap = followed.before + followed.skipped if backward else followed.before - 1
            recorded = own.segment
            for copy in (None,) if window is None else followed.numbers[:: -1 if backward else 1]:
                if copy is not None:
                    repeats[backward] = last - copy if backward else copy
                skipped = followed.skipped if copy == before_gap else 0
                place = window, (*repeats,), copy, skipped
                segment = Segment(
                    recorded.start,
                    recorded.end,
                    *place,
                    recorded.events,
                    recorded.fetched,
                    recorded.active,
                )
                slot = None if copy is None else followed.slots[copy]
                shift = (slot or 0) * self.period
                from_copy = shift if backward else shift + self.period
                end = begin + own.modules
                placed.append((own, PlacedSegment(segment, own.calls, slot, shift, from_copy, begin, end)))
                begin = end
        return placed

    def _set_distances(self, placed: Sequence[Placed]) -> None:
        """Set the distances to the next uses of parameters in all segments."""
        starts = [
            *accumulate([own.before[-1] * (1 + placement.segment.skipped) for own, placement in placed], initial=0)
        ]
        end_of_window = {placement.segment.window: placement.end for _, placement in placed}
        backward = {
            placement.slot: at for at, (_, placement) in enumerate(placed) if placement.segment.window == BACKWARD
        }
        for at, (own, placement) in enumerate(placed):
            window = placement.segment.window
            if window is None:
                placement.calls = [_outside_copies(call, at, placed, starts) for call in own.calls]
            else:
                placement.gap, placement.window_end = (
                    starts[backward[placement.slot]] - starts[at],
                    end_of_window[window],
                )


def _outside_copies(call: NumberedCall, at: int, placed: Sequence[Placed], starts: Sequence[int]) -> NumberedCall:
    """Return a call outside of the copies, with the distances to the next uses of parameters."""
    kind, number, place, position, own, others, ahead = call
    if kind == RELEASE:
        return kind, number, place, position, own, _distance(own, place, at, placed, starts), ahead
    if kind == RELEASE_SEVERAL:
        own = [(parameter, _distance(parameter, place, at, placed, starts)) for parameter, _ in own]
    return kind, number, place, position, own, others, ahead


def _distance(number: int, place: int, at: int, placed: Sequence[Placed], starts: Sequence[int]) -> float:
    """Return the elements up to the next use of a parameter that is outside of the copies."""
    since = starts[at] + placed[at][0].before[place]
    for later in range(at, len(placed)):
        own = placed[later][0]
        later_uses = [use for use in own.uses.get(number, ()) if later > at or use >= place]
        if later_uses:
            return starts[later] + own.before[later_uses[0]] - since
    return inf
