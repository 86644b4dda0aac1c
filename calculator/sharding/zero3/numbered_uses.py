"""The calls of a step's segments, with numbers in place of parameters, and the modules that use each parameter."""

from __future__ import annotations

from collections import defaultdict
from math import inf
from typing import TYPE_CHECKING, Any

from calculator.engine import module_calls
from calculator.engine.autograd import GRADIENT_OF
from calculator.sharding.zero3.program import FETCHES
from calculator.sharding.zero3.recorded_calls import AHEAD, FETCH, GRADIENT, RELEASE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from calculator.sharding.zero3.parameters import Module, Partitioned
    from calculator.sharding.zero3.segment import Segment

#: Further kinds of calls: of a module with several parameters that no other module uses, the release of several
#: parameters, a view is created, a view is freed, and the graph of the loss refers to a parameter.
FETCH_SEVERAL, RELEASE_SEVERAL, PIN, UNPIN, KEEP = range(5, 10)

#: The kinds of calls of views.
VIEWS = frozenset((PIN, UNPIN, KEEP))

#: The kinds of calls that create or free a view, or free what one refers to.
_OF_VIEWS = frozenset((PIN, UNPIN, RELEASE, RELEASE_SEVERAL))

#: An event of a segment: what happens, the index of the event, the number of modules that are called before it in the
#: segment, and the position on the tape. Then, of
#:
#: - a fetch: the parameter that no other module uses, or those parameters; all parameters of the module,
#: - a release: the parameter that may be freed; the distance to its next use,
#: - the release of several: such parameters, each with the distance; those that a recomputation gathered,
#: - a gradient: its parameter (not the number); nothing,
#: - a view: its parameter; the number of the view, for a new one with whether a recomputation creates it.
#:
#: Last, the calls in a row before it of modules whose parameters are gathered: the position, the index of the event,
#: and the parameters of each. After the last event, such calls have the kind `AHEAD`.
NumberedCall = tuple[int, int, int, int, Any, Any, "Sequence[tuple[int, int, Sequence[int]]]"]


class Numbers:
    """The numbers of parameters, and which of them persist or are trained."""

    def __init__(self, parameters: Sequence[Partitioned], modules: Iterable[Module]) -> None:
        self.number_of = {parameter: number for number, parameter in enumerate(parameters)}
        #: The numbers of the parameters of each module.
        self.numbers_of_module = {
            module: tuple(map(self.number_of.__getitem__, module.parameters)) for module in modules
        }
        self.persistent = {number for number, parameter in enumerate(parameters) if parameter.persists}
        self.trained = {number for number, parameter in enumerate(parameters) if parameter.trained}
        #: The modules outside of layers, and those that use parameters of other layers.
        self.open = {
            module
            for module in self.numbers_of_module
            if module.key.layer is None
            or any(parameter.key.layer != module.key.layer for parameter in module.parameters)
        }


class Uses:
    """The modules that use each parameter while the events of segments run: of one copy, or of all outside of copies.

    `backward` is the position at which the backward pass begins.
    """

    def __init__(self, numbers: Numbers, backward: int) -> None:
        self._numbers, self._backward = numbers, backward
        self._users: defaultdict[int, set[Module]] = defaultdict(set)
        #: The modules in their backward pass, in the order in which it began.
        self._in_backward: dict[Module, None] = {}
        #: Those whose backward pass began in an earlier segment.
        self._begun: frozenset[Module] = frozenset()
        #: The parameters that recomputations in the backward pass of a module gathered.
        self._recomputed: dict[Module, dict[int, None]] = {}
        #: Whether each recomputation so far belongs to a backward pass that began in the same segment.
        self._is_known = True

    @property
    def is_known(self) -> bool:
        """Whether the recomputations so far belong to backward passes of the segments that they run in."""
        return self._is_known and not any(self._recomputed.values())

    def is_closed(self, segment: Segment) -> bool:
        """Return whether the parameters of a copy are only used in it, by modules of it."""
        return self.is_known and self._numbers.open.isdisjoint(segment.fetched) and not any(self._users.values())

    def never_released(self) -> list[int]:
        """Return the parameters of modules whose backward pass does not end, which no other module uses."""
        modules, numbers_of_module = {*self._in_backward}, self._numbers.numbers_of_module
        every = dict.fromkeys(number for module in modules for number in numbers_of_module[module])
        return [number for number in every if number not in self._numbers.persistent and self._users[number] <= modules]

    def calls(self, segment: Segment, distance: Callable[[int, int], float]) -> list[NumberedCall]:
        """Return the calls of a segment, without the release of parameters that are used again too soon.

        `distance` returns the elements from an index of the segment's modules up to the next use of a parameter.
        """
        events, numbers_of_module, number_of = segment.events, self._numbers.numbers_of_module, self._numbers.number_of
        self._begun = frozenset(self._in_backward)
        numbered_calls: list[NumberedCall] = []
        ahead: list[tuple[int, int, Sequence[int]]] = []
        number = place = position = 0
        given: Any
        others: Any
        for number in segment.active:
            position, kind, module, parameter, serial = events[number]
            what, given, others = -1, None, None
            if module is None:
                if kind == GRADIENT_OF:
                    what, given = GRADIENT, parameter
                elif parameter is not None:
                    what, given, others = self._view(kind, number_of[parameter], position, serial)
            elif kind in FETCHES:
                others = numbers_of_module[module]
                own = self._fetch(module, others, position, backward=kind == module_calls.BEFORE_BACKWARD)
                if own:
                    what, given = (FETCH, own[0]) if len(own) == 1 else (FETCH_SEVERAL, own)
                    numbered_calls.append((what, number, place, position, given, others, ahead))
                    ahead = []
                else:
                    ahead.append((position, number, others))
                place += 1
                continue
            else:
                is_backward = kind == module_calls.AFTER_BACKWARD
                freed, recomputed = self._release(module, numbers_of_module[module], backward=is_backward)
                if len(freed) == 1 and not recomputed:
                    away = distance(freed[0], place)
                    if away > -inf:
                        what, given, others = RELEASE, freed[0], away
                elif freed or recomputed:
                    several = [(unused, away) for unused in freed if (away := distance(unused, place)) > -inf]
                    if several or recomputed:
                        what, given, others = RELEASE_SEVERAL, several, recomputed
            if what >= 0:
                numbered_calls.append((what, number, place, position, given, others, ahead))
                ahead = []
        if ahead:
            numbered_calls.append((AHEAD, number, place, position, None, None, ahead))
        return numbered_calls

    def _view(self, kind: str, number: int, position: int, serial: str) -> tuple[int, Any, Any]:
        """Return what happens to a view. A graph keeps no weights that a recomputation reads."""
        is_recomputed = position > self._backward
        if kind == module_calls.PINNED:
            return PIN, number, (serial, is_recomputed)
        if kind == module_calls.UNPINNED:
            return UNPIN, number, serial
        return (-1, None, None) if is_recomputed else (KEEP, number, None)

    def _fetch(self, module: Module, numbers: Sequence[int], position: int, *, backward: bool) -> list[int]:
        """Return the parameters of a module that no module has used before."""
        if backward:
            self._in_backward.setdefault(module)
        if not numbers:
            return []
        unused, users, persistent = [], self._users, self._numbers.persistent
        for number in numbers:
            using = users[number]
            if not using and number not in persistent:
                unused.append(number)
            using.add(module)
        if not backward and position > self._backward:
            self._recompute(numbers)
        return unused

    def _recompute(self, numbers: Sequence[int]) -> None:
        """Note that a recomputation reads parameters, in the backward pass that began last."""
        owner = next(reversed(self._in_backward), None)
        if owner is None or owner in self._begun:
            self._is_known = False
            return
        frozen = [number for number in numbers if number not in self._numbers.trained]
        self._recomputed.setdefault(owner, {}).update(dict.fromkeys(frozen))
        for number in frozen:
            self._users[number].add(owner)

    def _release(self, module: Module, numbers: Sequence[int], *, backward: bool) -> tuple[list[int], list[int]]:
        """Return those of a module's parameters that no module uses any more, and such ones that were recomputed."""
        freed, users, persistent = [], self._users, self._numbers.persistent
        for number in numbers:
            using = users[number]
            using.discard(module)
            if not using and number not in persistent:
                freed.append(number)
        if not backward:
            return freed, []
        self._in_backward.pop(module, None)
        recomputed = self._recomputed.pop(module, {})
        for number in recomputed:
            users[number].discard(module)
        return freed, [number for number in recomputed if not users[number] and number not in persistent]


def without_inert_views(calls: list[NumberedCall]) -> list[NumberedCall]:
    """Return the calls without views that are freed before a release of their parameter, which change nothing."""
    views = [at for at, call in enumerate(calls) if call[0] in _OF_VIEWS]
    #: The views of each parameter that exist, with the calls that created them.
    pinned: defaultdict[int, dict[str, int]] = defaultdict(dict)
    inert: set[int] = set()
    for at in views:
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
            for parameter in (*[parameter for parameter, _ in own], *others):
                pinned.pop(parameter, None)
    return _without_inert(calls, inert) if inert else calls


def _without_inert(calls: Sequence[NumberedCall], inert: set[int]) -> list[NumberedCall]:
    """Return the calls without those at some indices. The calls in a row before these stay."""
    remaining: list[NumberedCall] = []
    before: list[tuple[int, int, Sequence[int]]] = []
    for at, call in enumerate(calls):
        if at in inert:
            before = [*before, *call[-1]]
        else:
            remaining.append((*call[:-1], [*before, *call[-1]]) if before else call)
            before = []
    if before:
        _, number, place, position, *_ = calls[-1]
        remaining.append((AHEAD, number, place, position, None, None, before))
    return remaining
