"""The order in which stage 3 calls modules: recorded in one pass, followed in the next ones.

Source: deepspeed/runtime/zero/partitioned_param_coordinator.py.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import accumulate
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING

from calculator.sharding.zero3.parameters import PARTITIONED
from calculator.sharding.zero3.used_elements import NOTHING, Used, used

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.sharding.zero3.parameters import Module, Partitioned

#: The modes of the order: it is ignored, recorded, or followed.
INVALID, RECORD, COMPLETE = range(3)


class ModuleOrder:
    """The recorded order of modules, and how far the current pass has come in it."""

    def __init__(self, parameters: list[Partitioned], max_reuse_distance: int) -> None:
        self._parameters, self._max_reuse_distance = parameters, max_reuse_distance
        #: Whether the order is ignored, recorded or followed.
        self.mode = INVALID
        #: The number of modules that have been called in this pass.
        self.place = 0
        #: The parameters that the pass has not prefetched or used, each with the index of the module that uses it.
        self.queue: deque[tuple[Partitioned, int]] = deque()
        self._recorded: list[Module] = []
        #: For each index of the recorded order, the elements that the modules before it use.
        self._before: list[tuple[int, int]] = [NOTHING]
        self._trace: list[tuple[Partitioned, int]] = []
        self._fetched_for: dict[Partitioned, int] = {}
        self._released: dict[tuple[int, int], list[Partitioned]] = {}
        #: The indices before which modules are skipped, with the elements that the skipped modules use.
        self._skipped: list[tuple[int, Used]] = []
        self._passed = 0

    def begin(self) -> None:
        """Begin a forward pass.

        The first pass is recorded until the next one begins.
        """
        if self.mode == INVALID:
            self.mode, self._recorded, self._skipped = RECORD, [], []
        elif self.mode == RECORD:
            self._complete()
            self.mode = COMPLETE
        self.queue = deque(self._trace)
        self._fetched_for = {}
        self.place = self._passed = 0

    def record(self, modules: Iterable[Module], skipped: Iterable[tuple[int, Used]]) -> None:
        """Record the order of the first pass, which gathers and releases each module by itself."""
        self.mode, self._recorded, self._skipped = RECORD, [*modules], [*skipped]

    def drop(self) -> None:
        """Drop the recorded order. The next pass is recorded again."""
        self.mode = INVALID
        self.queue.clear()
        self._fetched_for = {}

    def reach(self, module: Module) -> bool:
        """Record that a module is called, or return whether it is the one that was recorded."""
        if self.mode == RECORD:
            self._recorded.append(module)
        elif self.mode == COMPLETE:
            return self.place < len(self._recorded) and self._recorded[self.place] is module
        return True

    def follows(self, modules: list[Module]) -> bool:
        """Return whether the next modules are those that were recorded."""
        return self.mode == COMPLETE and self._recorded[self.place : self.place + len(modules)] == modules

    def skip(self, elements: Used) -> None:
        """Skip modules, which use `elements`, because they behave like those before them."""
        if self.mode == RECORD:
            self._skipped.append((self.place, elements))
        self._passed += 1

    def used_since(self, place: int) -> Used:
        """Return the elements that modules use, from an index of the order up to the current module."""
        if self.mode == RECORD:
            return used(self._recorded[place:])
        if self.mode == INVALID:
            return NOTHING
        now, then = self._before[self.place], self._before[place]
        return Used(now[0] - then[0], now[1] - then[1])

    def looks_ahead_to(self, place: int) -> bool:
        """Return whether the module at an index, or a later one, is prefetched."""
        return self.mode == COMPLETE and (not self.queue or self.queue[0][1] >= place)

    def _complete(self) -> None:
        for parameter in self._parameters:
            parameter.in_order.clear()
            parameter.in_containers.clear()
        modules = dict.fromkeys(self._recorded)
        self._trace = [
            (parameter, place) for place, module in enumerate(self._recorded) for parameter in module.parameters
        ]
        for parameter, place in self._trace:
            parameter.in_order.append(place)
        if any(map(attrgetter("is_leaf"), modules)):  # only leaf modules ask for these
            for place, module in enumerate(self._recorded):
                for parameter in module.inside:
                    parameter.in_containers.append(place)
        sizes = {
            module: NOTHING.with_module(module) if module.parameters or module.inside else NOTHING for module in modules
        }
        sizes_in_order = [*map(sizes.__getitem__, self._recorded)]
        inside, outside = (accumulate(map(itemgetter(number), sizes_in_order), initial=0) for number in range(2))
        self._before = [*zip(inside, outside, strict=True)]

    def use(self, module: Module) -> None:
        """Remove the parameters of the current module from the queue, if no prefetch has removed them."""
        queue, fetched_for, step = self.queue, self._fetched_for, self.place
        if not queue or queue[0][1] > step:
            return
        missing = len([own for own in module.parameters if fetched_for.get(own, -1) < step])
        removed: set[Partitioned] = set()
        while missing > len(removed) and queue:
            parameter, place = queue.popleft()
            fetched_for[parameter] = place
            removed.add(parameter)

    def look_ahead(self, most: int) -> tuple[list[Partitioned], int]:
        """Remove parameters from the queue until they have `most` elements.

        Return those that are to be gathered, and their number of elements without the last.
        """
        queue, fetched_for = self.queue, self._fetched_for
        chosen: dict[Partitioned, None] = {}
        total = before_last = 0
        while queue and total < most:
            parameter, place = queue.popleft()
            fetched_for[parameter] = place  # indices only increase
            if parameter.state == PARTITIONED and parameter not in chosen:
                chosen[parameter] = None
                before_last, total = total, total + parameter.elements
        return [*chosen], before_last

    def to_release(self, module: Module) -> Sequence[Partitioned]:
        """Return the parameters to free: no prefetch skipped them, and their next use is far away.

        The result for a module at an index is cached, because it is the same in all later passes.
        """
        if self.mode != COMPLETE:
            return module.parameters
        step, skipped, is_leaf = self.place, self._fetched_for, module.is_leaf
        releases = self._released.get((module.number, step))
        if releases is None:
            releases = self._released[module.number, step] = []
            for parameter in module.parameters:
                if not (parameter.persists or skipped.get(parameter, -1) > step) and self._is_far(
                    parameter, is_leaf=is_leaf
                ):
                    releases.append(parameter)
        return releases

    def _is_far(self, parameter: Partitioned, *, is_leaf: bool) -> bool:
        """Return whether a parameter is not used again soon.

        For a leaf module, DeepSpeed counts the elements of all modules inside those in between, and a call of a module
        around it counts as a use. For other modules, it counts the modules in between alone, and leaf modules count as
        zero (__params_to_release).
        """
        step, before, most = self.place, self._before, self._max_reuse_distance
        places = parameter.in_order
        at = bisect_left(places, step)
        next_place = places[at] if at < len(places) else None
        if is_leaf and parameter.in_containers:
            inside = _next_index(parameter.in_containers, step)
            next_place = inside if next_place is None or (inside is not None and inside < next_place) else next_place
        if next_place is None:
            return True
        number = 0 if is_leaf else 1
        distance = before[next_place][number] - before[step][number]
        between = self._skipped[self._passed :]
        if distance >= most or not between:
            return distance >= most
        return distance + sum([skipped[number] for place, skipped in between if place <= next_place]) >= most


def _next_index(places: Sequence[int], step: int) -> int | None:
    """Return the first of some sorted indices from a step on, or None."""
    at = bisect_left(places, step)
    return places[at] if at < len(places) else None
