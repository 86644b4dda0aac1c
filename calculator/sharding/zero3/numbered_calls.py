"""The calls of a step of which one copy of the repeated layers is known. Parameters are numbers."""

from __future__ import annotations

from bisect import bisect_left
from functools import partial
from itertools import accumulate
from math import inf
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from calculator.sharding.zero3.known_calls import AHEAD, FETCH, GRADIENT, RELEASE, VIEW, OutsideCalls, known_copy
from calculator.sharding.zero3.program import BACKWARD, WITHOUT_GRAPH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from calculator.sharding.zero3.followed import Followed
    from calculator.sharding.zero3.known_calls import KnownCall, KnownCopy
    from calculator.sharding.zero3.parameters import Module, Partitioned
    from calculator.sharding.zero3.program import Program
    from calculator.sharding.zero3.segment import Event, Segment

_KIND = itemgetter(1)


class NumberedCall(NamedTuple):
    """An event of a segment, or several calls of modules in a row.

    Attributes:
        kind: What happens.
        number: The index of the event.
        place: The number of modules that are called before it in the segment.
        position: The position on the tape.
        own: Of a fetch, the parameters that no other module uses. Of a release, those with the distances to their next
            uses (see `_with_distances`). Of a view, its parameter.
        others: Of a fetch, all parameters of the module. Of a release, the parameters that a recomputation gathered. Of
            several calls, the position, the index of the event, and the parameters of each. Of a view, the kind of the
            event, and the number of the view.
        gradient: The parameter whose gradient is ready.
    """

    kind: int
    number: int
    place: int
    position: int
    own: Any
    others: Any
    gradient: Partitioned | None = None


class NumberedSegment(NamedTuple):
    """A segment of the step: one copy, or what is outside of the copies.

    Attributes:
        segment: The segment of the first copy.
        calls: The calls.
        modules: The number of modules that are called.
        order: The parameters in the order of their uses, each with the index of the module that uses it.
        uses: The indices of the modules that use each parameter.
        before: The elements of the modules before each module, and of all.
    """

    segment: Segment
    calls: Sequence[NumberedCall]
    modules: int
    order: list[tuple[int, int]]
    uses: Mapping[int, list[int]]
    before: list[int]

    @property
    def elements(self) -> int:
        """The elements of all modules."""
        return self.before[-1]


class StepCalls(NamedTuple):
    """The segments of a step with one copy, and the parameters outside of the copies and in one of them.

    `lingering` are the parameters of modules whose backward pass does not end.
    """

    program: Program
    segments: list[NumberedSegment]
    outside: list[Partitioned]
    of_copy: list[Partitioned]
    lingering: list[int]


def step_calls(program: Program, followed: Followed, parameters: Sequence[Partitioned], most: int) -> StepCalls | None:
    """Return the calls of a step, or None if what it gathers depends on more than them.

    `followed` is the first copy alone, and `most` the distance over which a parameter stays gathered.
    """
    if program.runs != 1 or program.second_root is not None:
        return None
    layers = followed.places
    outside = [each for each in parameters if each.key.layer not in layers]
    of_copy = [each for each in parameters if each.key.layer in layers]
    numbers = {each: number for number, each in enumerate((*outside, *of_copy))}
    segments, uses = [], OutsideCalls(program.backward)
    for segment in program.segments:
        is_outside = segment.window is None
        calls = uses.segment if is_outside else partial(known_copy, backward=program.backward)
        known = calls(segment.events, segment.active)
        if known is None or WITHOUT_GRAPH in map(_KIND, segment.events):
            return None
        found = _numbered(segment, known, numbers)
        views = [] if is_outside else [call.own for call in found.calls if call.kind == VIEW]
        if any((number < len(outside)) != is_outside for number in (*found.uses, *views)):
            return None
        segments.append(found)
    return StepCalls(
        program, _with_distances(segments, most), outside, of_copy, [numbers[each] for each in uses.left()]
    )


def _numbered(segment: Segment, known: KnownCopy, numbers: Mapping[Partitioned, int]) -> NumberedSegment:
    used = [tuple([numbers[each] for each in module.parameters]) for module in segment.fetched]
    order = [(number, place) for place, own in enumerate(used) for number in own]
    uses: dict[int, list[int]] = {}
    for number, place in order:
        uses.setdefault(number, []).append(place)
    sizes = [module.elements if module.parameters else 0 for module in segment.fetched]
    calls = [_call(segment.events, call, used, numbers) for call in known.calls]
    return NumberedSegment(segment, calls, len(used), order, uses, [*accumulate(sizes, initial=0)])


def _call(
    events: Sequence[Event], call: KnownCall, used: Sequence[tuple[int, ...]], numbers: Mapping[Partitioned, int]
) -> NumberedCall:
    kind, place, number, own, recomputed = call
    position, of_event, module, parameter, serial = events[number]
    if kind == AHEAD:
        row = [(events[each][0], each, used[at]) for at, each in enumerate(own, place)]
        return NumberedCall(kind, number, place, position, (), row)
    if kind == FETCH:
        every = used[place]
        return NumberedCall(kind, number, place, position, tuple([every[at] for at in own]), every)
    if kind == RELEASE and module is not None:
        freed = tuple([(numbers[module.parameters[at]], inf) for at in own])
        again = tuple([numbers[_module(events, event).parameters[at]] for event, at in recomputed])
        return NumberedCall(kind, number, place, position, freed, again)
    if kind == GRADIENT or parameter is None:
        return NumberedCall(kind, number, place, position, (), (), parameter)
    return NumberedCall(kind, number, place, position, numbers[parameter], (of_event, serial))


def _module(events: Sequence[Event], number: int) -> Module:
    module = events[number][2]
    assert module is not None, "the event is a call"
    return module


def _with_distances(segments: list[NumberedSegment], most: int) -> list[NumberedSegment]:
    """Return the segments of copies with the distance from each release to the next use of a parameter.

    `most` is the distance over which a parameter stays gathered.
    """
    backward = next(each for each in segments if each.segment.window == BACKWARD)
    after = {number: backward.before[place] for number, (place, *_) in backward.uses.items()}
    return [
        each if each.segment.window is None else _with_distances_in(each, {} if each is backward else after, most)
        for each in segments
    ]


def _with_distances_in(own: NumberedSegment, after: Mapping[int, int], most: int) -> NumberedSegment:
    before, uses = own.before, own.uses

    def distance(number: int, place: int) -> float:
        places = uses[number]
        if places[-1] >= place:
            following = places[bisect_left(places, place)]
            return inf if before[following] - before[place] >= most else -inf
        return after[number] - before[place] if number in after else inf

    calls = [
        call
        if call.kind != RELEASE
        else call._replace(own=tuple([(number, distance(number, call.place)) for number, _ in call.own]))
        for call in own.calls
    ]
    return own._replace(calls=calls)
