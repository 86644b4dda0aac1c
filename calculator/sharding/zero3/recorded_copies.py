"""The copies of the repeated layers, followed at the calls where stage 3 can gather or release something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.sharding.zero3.recorded_calls import AHEAD, FETCH, GRADIENT, inert_views, recorded_copy
from calculator.sharding.zero3.track import Moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.sharding.zero3.coordinator import Coordinator
    from calculator.sharding.zero3.parameters import Live, Module, Partitioned
    from calculator.sharding.zero3.recorded_calls import RecordedCopy
    from calculator.sharding.zero3.segment import Event, Segment

    #: Called with the position, the kind and the parameter of a view, and with its number.
    ViewParameter = Callable[[int, str, Partitioned, str], None]


class RecordedCopies:
    """The calls of the copies in each window of a program whose backward pass begins at the position `backward`."""

    def __init__(self, backward: int) -> None:
        self._backward = backward
        self._copies_by_window: dict[int, RecordedCopy | None] = {}

    def recorded(self, segment: Segment, coordinator: Coordinator) -> RecordedCopy | None:
        """Return the calls of a copy, or None if others are possible."""
        window = segment.window
        if window is None or not (coordinator.is_settled and coordinator.order.follows(segment.fetched)):
            return None
        if window not in self._copies_by_window:
            own = segment.events, segment.active, self._backward
            self._copies_by_window[window] = recorded_copy(*own, inert_views(*own))
        return self._copies_by_window[window]


class RecordedRun:
    """A run of a copy at its recorded calls. Its moments are those at which the gathered bytes change."""

    def __init__(
        self, coordinator: Coordinator, live: Live, events: list[Event], view_parameter: ViewParameter
    ) -> None:
        self._coordinator, self._live, self._events, self._view_parameter = coordinator, live, events, view_parameter
        self._begin = coordinator.order.place

    def follow(self, recorded: RecordedCopy) -> list[Moment]:
        """Follow the calls, and return their moments."""
        coordinator, live, events, begin = self._coordinator, self._live, self._events, self._begin
        moments: list[Moment] = []
        order, (most, enough), is_limited = coordinator.order, coordinator.limits, False
        queue = order.queue
        for kind, place, number, own, recomputed in recorded.calls:
            if kind == AHEAD:
                is_limited = is_limited or coordinator.available > enough
                if queue and (coordinator.available < most or queue[0][1] < begin + place + len(own)):
                    moments += self._look_ahead(begin + place, own)
                continue
            position, event_module, module, parameter, serial = events[number]
            order.place, live.position = begin + place, position
            before = live.most = live.bytes
            if module is not None and kind == FETCH:
                coordinator.fetch_known(module, own)
            elif module is not None:
                coordinator.release_known(module, own, [self._module(event).parameters[at] for event, at in recomputed])
            elif kind == GRADIENT:
                moments.append(Moment(position, before, before, parameter, number=number))
            elif parameter is not None:
                self._view_parameter(position, event_module, parameter, serial)
            if live.most != before or live.bytes != before:
                moments.append(Moment(position, live.most, live.bytes, None, True, number))
        coordinator.limited += is_limited
        for number in recorded.lingering:
            coordinator.leave_open(self._module(number))
        return moments

    def _module(self, number: int) -> Module:
        module = self._events[number][2]
        assert module is not None, "the event is a call"
        return module

    def _look_ahead(self, begin: int, numbers: tuple[int, ...]) -> Iterator[Moment]:
        """Call modules whose parameters are gathered. Yield the moments at which those of later ones are gathered."""
        coordinator, live = self._coordinator, self._live
        for coordinator.order.place, number in enumerate(numbers, begin):
            live.position, _, module, *_ = self._events[number]
            before = live.most = live.bytes
            if module is not None:
                coordinator.fetch_known(module, ())
            if live.most != before or live.bytes != before:
                yield Moment(live.position, live.most, live.bytes, number=number)
