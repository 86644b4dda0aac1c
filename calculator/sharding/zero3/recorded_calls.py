"""The calls of a copy of the repeated layers at which stage 3 gathers or releases something, once it follows an order.

Which modules use a parameter at a call only depends on the calls before it in the same copy. So it is the same in all
copies. Persistent parameters stay gathered.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from calculator.engine import module_calls
from calculator.engine.autograd import GRADIENT_OF
from calculator.sharding.zero3.program import FETCHES

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from calculator.sharding.zero3.parameters import Module, Partitioned
    from calculator.sharding.zero3.segment import Event

#: The kinds of calls: modules are called whose parameters are gathered, a module is called, a module's call ends,
#: a gradient is ready, and a view of a parameter is created or freed.
AHEAD, FETCH, RELEASE, GRADIENT, VIEW = range(5)

#: The index of an event, and the index of a parameter among those of its module.
Found = tuple[int, int]


#: An event of a copy, or several calls of modules in a row: what happens, the number of modules that are called before
#: it in the copy, the index of the event, the indices of those of the module's parameters that no other module uses and
#: that do not persist, and the parameters that a recomputation gathered and no module uses any more. For modules whose
#: parameters are gathered, the indices of the events instead of those of parameters.
RecordedCall = tuple[int, int, int, tuple[int, ...], tuple[Found, ...]]


class RecordedCopy(NamedTuple):
    """The calls of a copy in order, and the indices of the events at which backward passes begin that do not end in it.

    The latter are those of modules without parameters.
    """

    calls: list[RecordedCall]
    lingering: tuple[int, ...]


def recorded_copy(
    events: Sequence[Event], active: Sequence[int], backward: int, inert: Container[int] = ()
) -> RecordedCopy | None:
    """Return the calls of a copy, whose events can do something at the indices `active`.

    None if they depend on what is called outside of the copy. `backward` is the position at which the backward pass
    begins. `inert` are the indices of events of views that are left out.
    """
    uses = _Uses(events, active, backward, inert)
    calls = uses.calls()
    return RecordedCopy(calls, uses.lingering) if uses.is_closed else None


class _Uses:
    """The modules that use each parameter while the events of a copy run."""

    def __init__(
        self, events: Sequence[Event], active: Sequence[int], backward: int, inert: Container[int] = ()
    ) -> None:
        self._events, self._active, self._backward, self._inert = events, active, backward, inert
        self._users: defaultdict[Partitioned, set[Module]] = defaultdict(set)
        #: The modules in their backward pass, with the index of the event at which it began.
        self._in_backward: dict[Module, int] = {}
        #: The parameters that recomputations in the backward pass of a module gathered, and where they are found.
        self._recomputed: defaultdict[Module, dict[Partitioned, Found]] = defaultdict(dict)
        self._place = 0
        self._is_open = False

    @property
    def is_closed(self) -> bool:
        """Whether parameters are only used in the copy, by modules of it."""
        return not (self._is_open or any(self._users.values()) or any(self._recomputed.values()))

    @property
    def lingering(self) -> tuple[int, ...]:
        """The indices of the events at which modules begin a backward pass that does not end."""
        return (*self._in_backward.values(),)

    def calls(self) -> list[RecordedCall]:
        """Return the calls in order, with one for all calls in a row of modules whose parameters are gathered."""
        inert, events = self._inert, self._events
        recorded_calls: list[RecordedCall] = []
        row: list[int] = []
        for number in self._active:
            position, kind, module, parameter, _ = events[number]
            call: RecordedCall | None = None
            if kind in FETCHES and module is not None:
                own = self._fetch(number, module, position, backward=kind == module_calls.BEFORE_BACKWARD)
                self._place += 1
                if not own:
                    row.append(number)
                    continue
                call = FETCH, self._place - 1, number, own, ()
            elif module is not None:
                own, recomputed = self._release(module, backward=kind == module_calls.AFTER_BACKWARD)
                if own or recomputed:
                    call = RELEASE, self._place, number, own, recomputed
            elif kind == GRADIENT_OF:
                call = GRADIENT, self._place, number, (), ()
            elif parameter is not None and number not in inert:
                call = VIEW, self._place, number, (), ()
            if call is not None:
                if row:
                    recorded_calls.append((AHEAD, call[1] - len(row), row[0], (*row,), ()))
                    row = []
                recorded_calls.append(call)
        if row:
            recorded_calls.append((AHEAD, self._place - len(row), row[0], (*row,), ()))
        return recorded_calls

    def _fetch(self, number: int, module: Module, position: int, *, backward: bool) -> tuple[int, ...]:
        """Return the indices of the parameters that no module has used before."""
        layer, parameters, users = module.key.layer, module.parameters, self._users
        self._is_open = self._is_open or layer is None
        if backward:
            self._in_backward.setdefault(module, number)
        if not parameters:
            return ()
        unused = []
        recomputes = not backward and position > self._backward
        if recomputes and not self._in_backward:
            self._is_open = True
        owner = next(reversed(self._in_backward)) if recomputes and self._in_backward else None
        for at, parameter in enumerate(parameters):
            using = users[parameter]
            if not (using or parameter.persists):
                unused.append(at)
            if parameter.key.layer != layer:
                self._is_open = True
            using.add(module)
            if owner is not None and not parameter.trained:
                self._recomputed[owner][parameter] = number, at
                using.add(owner)
        return tuple(unused)

    def _release(self, module: Module, *, backward: bool) -> tuple[tuple[int, ...], tuple[Found, ...]]:
        """Return the indices of its parameters that no module uses any more, and where to find recomputed ones."""
        own, users = [], self._users
        for at, parameter in enumerate(module.parameters):
            users[parameter].discard(module)
            if not (parameter.persists or users[parameter]):
                own.append(at)
        if backward:
            self._in_backward.pop(module, None)
        recomputed = self._recomputed.pop(module, None) if backward else None
        if not recomputed:
            return tuple(own), ()
        for parameter in recomputed:
            users[parameter].discard(module)
        return tuple(own), tuple([at for key, at in recomputed.items() if not (key.persists or users[key])])


def inert_views(events: Sequence[Event], active: Sequence[int], backward: int) -> set[int]:
    """Return the indices of events of views that change nothing.

    A graph keeps no weights that a recomputation reads. A view of a persistent parameter keeps nothing that is released
    while it exists.
    """
    indices: set[int] = set()
    pinned: dict[tuple[str, Partitioned], int] = {}
    for number in [number for number in active if events[number][2] is None]:
        position, kind, _, parameter, serial = events[number]
        if parameter is None:
            continue
        if kind == module_calls.KEPT and position > backward:
            indices.add(number)
        elif kind == module_calls.PINNED and parameter.persists:
            pinned[serial, parameter] = number
        elif kind == module_calls.UNPINNED and (serial, parameter) in pinned:
            indices.update((number, pinned.pop((serial, parameter))))
    return indices
