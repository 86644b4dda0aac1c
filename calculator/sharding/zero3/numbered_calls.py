"""The calls of a step of which one copy of the repeated layers is known. Parameters are numbers."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import accumulate, chain
from math import inf
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from calculator.engine import module_calls
from calculator.sharding.zero3.known_calls import AHEAD, FETCH, GRADIENT, RELEASE, OutsideCalls, known_copy
from calculator.sharding.zero3.program import BACKWARD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from calculator.sharding.zero3.first_copy import FirstCopy
    from calculator.sharding.zero3.followed import Followed
    from calculator.sharding.zero3.known_calls import KnownCall
    from calculator.sharding.zero3.parameters import Module, Partitioned
    from calculator.sharding.zero3.program import Program
    from calculator.sharding.zero3.segment import Event, Segment

#: The kind of a numbered call.
_KIND_OF_CALL = itemgetter(0)

#: Further kinds of calls: of a module with several parameters that no other module uses, the release of several
#: parameters, a view is created, a view is freed, and the graph of the loss refers to a parameter.
FETCH_SEVERAL, RELEASE_SEVERAL, PIN, UNPIN, KEEP = range(5, 10)

#: The kinds of calls that create or free a view, or free what one refers to.
_OF_VIEWS = frozenset((PIN, UNPIN, RELEASE, RELEASE_SEVERAL))

#: An event of a segment: what happens, the index of the event, the number of modules that are called before it in the
#: segment, and the position on the tape. Then, of
#:
#: - a fetch: the parameter that no other module uses, or those parameters; all parameters of the module,
#: - a release: the parameter that may be freed; the distance to its next use (see `_distances`),
#: - the release of several: such parameters, each with the distance; those that a recomputation gathered,
#: - a gradient: its parameter (not the number); nothing,
#: - a view: its parameter; the number of the view, for a new one with whether a recomputation creates it.
#:
#: Last, the calls in a row before it of modules whose parameters are gathered: the position, the index of the event,
#: and the parameters of each. After the last event, such calls have the kind `AHEAD`.
NumberedCall = tuple[int, int, int, int, Any, Any, Sequence[tuple[int, int, Sequence[int]]]]


class NumberedSegment(NamedTuple):
    """A segment of the step: one copy, or what is outside of the copies.

    Attributes:
        segment: The segment of the first copy.
        calls: The calls.
        modules: The number of modules that are called.
        order: The parameters in the order of their uses.
        places: The index of the module that uses each of them.
        uses: The indices of the modules that use each parameter.
        before: The elements of the modules before each module, and of all.
        used: The parameters of each module.
    """

    segment: Segment
    calls: Sequence[NumberedCall]
    modules: int
    order: list[int]
    places: list[int]
    uses: Mapping[int, list[int]]
    before: list[int]
    used: list[tuple[int, ...]]


class StepCalls(NamedTuple):
    """The segments of a step with one copy, and the parameters outside of the copies and in one of them.

    `lingering` are the parameters of modules whose backward pass does not end.
    """

    program: Program | FirstCopy
    segments: list[NumberedSegment]
    outside: list[Partitioned]
    of_copy: list[Partitioned]
    lingering: list[int]


def step_calls(
    program: Program | FirstCopy, followed: Followed, parameters: Sequence[Partitioned], most: int
) -> StepCalls | None:
    """Return the calls of a step, or None if what it gathers depends on more than them.

    `followed` is the first copy alone, and `most` the distance over which a parameter stays gathered.
    """
    if program.runs != 1 or program.second_root is not None:
        return None
    layers = followed.places
    outside = [each for each in parameters if each.key.layer not in layers]
    of_copy = [each for each in parameters if each.key.layer in layers]
    numbers = {each: number for number, each in enumerate((*outside, *of_copy))}
    of_module, first = _Numbers(numbers), len(outside)
    uses = OutsideCalls(program.backward)
    calls = []
    for segment in program.segments:
        of_segment = uses.segment if segment.window is None else partial(known_copy, backward=program.backward)
        known = of_segment(segment.events, segment.active)
        if known is None:
            return None
        calls.append(known.calls)
    elements = {module: module.elements if module.parameters else 0 for module in program.modules.values()}
    segments = [_numbered(segment, of_module, elements) for segment in program.segments]
    backward = next(each for each in segments if each.segment.window == BACKWARD)
    after = {number: backward.before[place] for number, (place, *_) in backward.uses.items()}
    found = []
    for own, known_calls in zip(segments, calls, strict=True):
        window = own.segment.window
        distance = _unknown if window is None else _distances(own, {} if window == BACKWARD else after, most)
        numbered = _numbered_calls(own, known_calls, of_module, distance, program.backward)
        views = [] if window is None else [each[4] for each in numbered if each[0] in {PIN, UNPIN, KEEP}]
        numbers_used = (*own.uses, *views)
        if numbers_used and (min(numbers_used) < first if window is not None else max(numbers_used) >= first):
            return None
        found.append(own._replace(calls=_without_inert_views(numbered)))
    return StepCalls(program, found, outside, of_copy, [numbers[each] for each in uses.left()])


class _Numbers(dict["Module", tuple[int, ...]]):
    """The numbers of the parameters of each module."""

    __slots__ = ("numbers",)

    def __init__(self, numbers: Mapping[Partitioned, int]) -> None:
        super().__init__()
        self.numbers = numbers

    def __missing__(self, module: Module) -> tuple[int, ...]:
        found = self[module] = tuple(map(self.numbers.__getitem__, module.parameters))
        return found


def _numbered(segment: Segment, of_module: _Numbers, elements: Mapping[Module, int]) -> NumberedSegment:
    """Return a segment without its calls. `elements` are those of the parameters of each module."""
    used = [*map(of_module.__getitem__, segment.fetched)]
    order = [*chain.from_iterable(used)]
    places = [place for place, own in enumerate(used) for _ in own]
    uses: dict[int, list[int]] = {}
    for number, place in zip(order, places, strict=True):
        uses.setdefault(number, []).append(place)
    sizes = map(elements.__getitem__, segment.fetched)
    return NumberedSegment(segment, (), len(used), order, places, uses, [*accumulate(sizes, initial=0)], used)


def _numbered_calls(
    own: NumberedSegment,
    calls: Iterable[KnownCall],
    of_module: _Numbers,
    distance: Callable[[int, int], float],
    backward: int,
) -> list[NumberedCall]:
    """Return the calls of a segment, without the release of parameters that are used again too soon."""
    events, used, numbers = own.segment.events, own.used, of_module.numbers
    found: list[NumberedCall] = []
    ahead: list[tuple[int, int, Sequence[int]]] = []
    number = place = 0
    what: int
    given: Any
    others: Any
    for kind, place, number, some, recomputed in calls:
        if kind == AHEAD:
            ahead += [(events[each][0], each, used[at]) for at, each in enumerate(some, place)]
            continue
        position, of_event, module, parameter, serial = events[number]
        if kind == FETCH:
            others = used[place]
            is_one = len(some) == 1
            what, given = (FETCH, others[some[0]]) if is_one else (FETCH_SEVERAL, [others[at] for at in some])
        elif module is not None and len(some) == 1 and not recomputed:
            what, given = RELEASE, of_module[module][some[0]]
            others = distance(given, place)
            if others == -inf:
                continue
        elif module is not None:
            freed = [of_module[module][at] for at in some]
            what, given = RELEASE_SEVERAL, [(each, away) for each in freed if (away := distance(each, place)) > -inf]
            others = [of_module[_module(events, event)][at] for event, at in recomputed]
            if not (given or others):
                continue
        elif parameter is None or kind == GRADIENT:
            what, given, others = GRADIENT, parameter, None
        elif of_event == module_calls.PINNED:
            what, given, others = PIN, numbers[parameter], (serial, position > backward)
        elif of_event == module_calls.UNPINNED:
            what, given, others = UNPIN, numbers[parameter], serial
        elif position <= backward:
            what, given, others = KEEP, numbers[parameter], None
        else:
            continue
        found.append((what, number, place, position, given, others, ahead))
        ahead = []
    if ahead:
        found.append((AHEAD, number, place + len(ahead), events[number][0], None, None, ahead))
    return found


def _without_inert_views(calls: list[NumberedCall]) -> list[NumberedCall]:
    """Return the calls without views that are freed before a release of their parameter, which change nothing."""
    kinds = [*map(_KIND_OF_CALL, calls)]
    if PIN not in kinds:
        return calls
    #: The views of each parameter that exist, with the calls that created them.
    pinned: defaultdict[int, dict[str, int]] = defaultdict(dict)
    inert: set[int] = set()
    for at in [at for at, kind in enumerate(kinds) if kind in _OF_VIEWS]:
        kind, _, _, _, own, others, _ = calls[at]
        if kind == PIN:
            pinned[own][others[0]] = at
        elif kind == UNPIN:
            begun = pinned[own].pop(others, None)
            if begun is not None:
                inert.update((at, begun))
        elif kind == RELEASE:
            pinned.pop(own, None)
        else:
            for each in (*[each for each, _ in own], *others):
                pinned.pop(each, None)
    if not inert:
        return calls
    found: list[NumberedCall] = []
    before: list[tuple[int, int, Sequence[int]]] = []
    for at, call in enumerate(calls):
        if at in inert:
            before = [*before, *call[-1]]
        else:
            found.append((*call[:-1], [*before, *call[-1]]) if before else call)
            before = []
    if before:
        _, number, place, position, *_ = calls[-1]
        found.append((AHEAD, number, place, position, None, None, before))
    return found


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
