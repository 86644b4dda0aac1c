"""The calls of a step of which one copy of the repeated layers is known. Parameters are numbers."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate, chain
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from calculator.sharding.zero3.numbered_uses import VIEWS, Numbers, Uses, without_inert_views
from calculator.sharding.zero3.parameters import ELEMENTS
from calculator.sharding.zero3.program import BACKWARD

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from calculator.sharding.zero3.first_copy import FirstCopy
    from calculator.sharding.zero3.followed import Followed
    from calculator.sharding.zero3.numbered_uses import NumberedCall
    from calculator.sharding.zero3.parameters import Module, Partitioned
    from calculator.sharding.zero3.program import Program
    from calculator.sharding.zero3.segment import Segment


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
    """

    segment: Segment
    calls: Sequence[NumberedCall]
    modules: int
    order: list[int]
    places: list[int]
    uses: Mapping[int, list[int]]
    before: list[int]


class StepCalls(NamedTuple):
    """The segments of a step with one copy, and the parameters outside of the copies and in one of them.

    `lingering` are the parameters of modules whose backward pass does not end.
    """

    program: Program | FirstCopy
    segments: list[NumberedSegment]
    outside: list[Partitioned]
    in_copy: list[Partitioned]
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
    outside = [parameter for parameter in parameters if parameter.key.layer not in layers]
    in_copy = [parameter for parameter in parameters if parameter.key.layer in layers]
    numbers, first = Numbers((*outside, *in_copy), program.modules.values()), len(outside)
    sizes = [*map(ELEMENTS, (*outside, *in_copy))]
    elements = {
        module: sum([sizes[number] for number in own]) if own else 0
        for module, own in numbers.numbers_of_module.items()
    }
    segments = [_numbered(segment, numbers.numbers_of_module, elements) for segment in program.segments]
    backward = next(placement for placement in segments if placement.segment.window == BACKWARD)
    after = {number: backward.before[place] for number, (place, *_) in backward.uses.items()}
    outside_uses = Uses(numbers, program.backward)
    numbered = []
    for own in segments:
        segment, window = own.segment, own.segment.window
        distance = _unknown if window is None else _distances(own, {} if window == BACKWARD else after, most)
        uses = outside_uses if window is None else Uses(numbers, program.backward)
        calls = uses.calls(segment, distance)
        if not (uses.is_known if window is None else uses.is_closed(segment)):
            return None
        views = [] if window is None else [call[4] for call in calls if call[0] in VIEWS]
        numbers_used = (*own.uses, *views)
        if numbers_used and (min(numbers_used) < first if window is not None else max(numbers_used) >= first):
            return None
        numbered.append(own._replace(calls=without_inert_views(calls)))
    return StepCalls(program, numbered, outside, in_copy, outside_uses.never_released())


def _numbered(
    segment: Segment, numbers_of_module: Mapping[Module, tuple[int, ...]], elements: Mapping[Module, int]
) -> NumberedSegment:
    """Return a segment without its calls. `elements` are those of the parameters of each module."""
    used = [*map(numbers_of_module.__getitem__, segment.fetched)]
    order = [*chain.from_iterable(used)]
    places = [place for place, own in enumerate(used) for _ in own]
    uses: dict[int, list[int]] = {}
    for number, place in zip(order, places, strict=True):
        uses.setdefault(number, []).append(place)
    sizes = map(elements.__getitem__, segment.fetched)
    return NumberedSegment(segment, (), len(used), order, places, uses, [*accumulate(sizes, initial=0)])


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
        places = uses.get(number)
        if places and places[-1] >= place:
            next_place = places[bisect_left(places, place)]
            return inf if before[next_place] - before[place] >= most else -inf
        return after[number] - before[place] if number in after else inf

    return distance
