"""The calls of a step of which one copy of the repeated layers is known. Parameters are numbers."""

from __future__ import annotations

from bisect import bisect_left
from functools import partial
from itertools import accumulate
from math import inf
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from calculator.sharding.zero3.known_calls import AHEAD, FETCH, GRADIENT, RELEASE, VIEW, OutsideCalls, known_copy
from calculator.sharding.zero3.program import BACKWARD, NO_GRAD_FORWARD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from calculator.sharding.zero3.followed import Followed
    from calculator.sharding.zero3.known_calls import KnownCall
    from calculator.sharding.zero3.parameters import Module, Partitioned
    from calculator.sharding.zero3.program import Program
    from calculator.sharding.zero3.segment import Event, Segment

_KIND = itemgetter(1)

#: The kind of a call whose module has several parameters that no other module uses.
FETCH_SEVERAL = -1


#: An event of a segment, or several calls of modules in a row: what happens, the index of the event, the number of
#: modules that are called before it in the segment, and the position on the tape. Then, of
#:
#: - a fetch: the parameter that no other module uses, or those parameters; all parameters of the module,
#: - a release: the parameters that may be freed with the distances to their next uses (see `_distances`); those that a
#:   recomputation gathered,
#: - several calls: nothing; the position, the index of the event, and the parameters of each,
#: - a view: its parameter; the kind of the event, and the number of the view.
#:
#: Last, the parameter whose gradient is ready.
NumberedCall = tuple[int, int, int, int, Any, Any, "Partitioned | None"]


class NumberedSegment(NamedTuple):
    """A segment of the step: one copy, or what is outside of the copies.

    Attributes:
        segment: The segment of the first copy.
        calls: The calls.
        modules: The number of modules that are called.
        order: The parameters in the order of their uses, each with the index of the module that uses it.
        uses: The indices of the modules that use each parameter.
        before: The elements of the modules before each module, and of all.
        used: The parameters of each module.
    """

    segment: Segment
    calls: Sequence[NumberedCall]
    modules: int
    order: list[tuple[int, int]]
    uses: Mapping[int, list[int]]
    before: list[int]
    used: list[tuple[int, ...]]


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
    uses = OutsideCalls(program.backward)
    calls = []
    for segment in program.segments:
        of_segment = uses.segment if segment.window is None else partial(known_copy, backward=program.backward)
        known = of_segment(segment.events, segment.active)
        if known is None or NO_GRAD_FORWARD in map(_KIND, segment.events):
            return None
        calls.append(known.calls)
    segments = [_numbered(segment, numbers) for segment in program.segments]
    backward = next(each for each in segments if each.segment.window == BACKWARD)
    after = {number: backward.before[place] for number, (place, *_) in backward.uses.items()}
    found = []
    for own, known_calls in zip(segments, calls, strict=True):
        window = own.segment.window
        distance = _distances(own, {} if window == BACKWARD else after, most)
        numbered = [*_numbered_calls(own, known_calls, numbers, _unknown if window is None else distance)]
        views = [] if window is None else [each[4] for each in numbered if each[0] == VIEW]
        if any((number < len(outside)) != (window is None) for number in (*own.uses, *views)):
            return None
        found.append(own._replace(calls=numbered))
    return StepCalls(program, found, outside, of_copy, [numbers[each] for each in uses.left()])


def _numbered(segment: Segment, numbers: Mapping[Partitioned, int]) -> NumberedSegment:
    """Return a segment without its calls."""
    used = [tuple([numbers[each] for each in own]) if (own := module.parameters) else () for module in segment.fetched]
    order = [(number, place) for place, own in enumerate(used) if own for number in own]
    uses: dict[int, list[int]] = {}
    for number, place in order:
        uses.setdefault(number, []).append(place)
    sizes = [module.elements if module.parameters else 0 for module in segment.fetched]
    return NumberedSegment(segment, (), len(used), order, uses, [*accumulate(sizes, initial=0)], used)


def _numbered_calls(
    own: NumberedSegment,
    calls: Iterable[KnownCall],
    numbers: Mapping[Partitioned, int],
    distance: Callable[[int, int], float],
) -> Iterator[NumberedCall]:
    events, used = own.segment.events, own.used
    for kind, place, number, some, recomputed in calls:
        position, of_event, module, parameter, serial = events[number]
        if kind == FETCH:
            every = used[place]
            if len(some) == 1:
                yield kind, number, place, position, every[some[0]], every, None
            else:
                yield FETCH_SEVERAL, number, place, position, [every[at] for at in some], every, None
        elif kind == RELEASE and module is not None:
            freed = [numbers[module.parameters[at]] for at in some]
            again = [numbers[_module(events, event).parameters[at]] for event, at in recomputed]
            yield kind, number, place, position, [(each, distance(each, place)) for each in freed], again, None
        elif kind == AHEAD:
            row = [(events[each][0], each, used[at]) for at, each in enumerate(some, place)]
            yield kind, number, place, position, (), row, None
        elif kind == GRADIENT or parameter is None:
            yield kind, number, place, position, (), (), parameter
        else:
            yield kind, number, place, position, numbers[parameter], (of_event, serial), None


def _module(events: Sequence[Event], number: int) -> Module:
    module = events[number][2]
    assert module is not None, "the event is a call"
    return module


def _unknown(number: int, place: int) -> float:  # noqa: ARG001
    """Return the distance outside of the copies, which depends on how many copies are followed."""
    return inf


def _distances(own: NumberedSegment, after: Mapping[int, int], most: int) -> Callable[[int, int], float]:
    """Return a function of the elements up to the next use of a parameter from an index of the segment's modules on.

    In the forward pass of a copy, the elements up to its backward pass are left out if the next use is in that. `most`
    is the distance over which a parameter stays gathered: a next use in the same pass is infinitely far or near.
    """
    before, uses = own.before, own.uses

    def distance(number: int, place: int) -> float:
        places = uses[number]
        if places[-1] >= place:
            following = places[bisect_left(places, place)]
            return inf if before[following] - before[place] >= most else -inf
        return after[number] - before[place] if number in after else inf

    return distance
