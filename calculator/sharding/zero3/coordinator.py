"""When stage 3 gathers and releases parameters.

It gathers them around each call of a module, and prefetches them once it has recorded the order of modules.

Source: deepspeed/runtime/zero/partitioned_param_coordinator.py.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import accumulate, islice
from math import inf
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING

from calculator.sharding.zero3.gather import Gather, upload
from calculator.sharding.zero3.parameters import GATHERED, IN_FLIGHT, PARTITIONED, Storage
from calculator.sharding.zero3.used_elements import NOTHING, Used, used

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from calculator.sharding.zero.parameters import Key
    from calculator.sharding.zero3.parameters import Live, Module, Partitioned
    from calculator.sharding.zero3.sizes import Sizes


#: The modes of the coordinator: ignore the order of modules, record it, or follow it.
INVALID, RECORD, COMPLETE = range(3)


class Coordinator:
    """DeepSpeed's parameter coordinator in a run from its first step on.

    It records the order of modules in the first pass.
    """

    def __init__(self, sizes: Sizes, live: Live, parameters: list[Partitioned]) -> None:
        self._sizes, self._live, self.parameters = sizes, live, parameters
        self._bucket, self._max_live = sizes.prefetch_bucket, sizes.max_live
        self._in_flight: dict[Partitioned, Gather] = {}
        self._mode, self._step, self._available = INVALID, 0, 0
        #: The bytes that all-gathers have resulted in.
        self.sent = 0
        self._recorded: list[Module] = []
        #: For each index of the recorded order, the elements that the modules before it use.
        self._before: list[tuple[int, int]] = [NOTHING]
        self._trace: list[tuple[Partitioned, int]] = []
        self._queue: deque[tuple[Partitioned, int]] = deque()
        self._fetched_for: dict[Partitioned, int] = {}
        self._in_backward: dict[int, Module] = {}
        self._released: dict[tuple[int, int], list[Partitioned]] = {}
        #: The indices before which modules are skipped, with the elements that the skipped modules use.
        self._skipped: list[tuple[int, Used]] = []
        self._passed = 0
        #: The number of prefetches that were smaller because too many parameters were gathered.
        self.limited = 0
        #: The number of further elements that could be gathered without changing a prefetch since the last reset.
        self.slack: float = inf
        #: Whether a parameter that represents other copies was gathered outside of the copies, where it stands for one
        #: alone.
        self.is_apart = False

    @property
    def _is_complete(self) -> bool:
        return self._mode == COMPLETE

    def begin(self) -> None:
        """Begin a forward pass.

        The first pass is recorded until the next one begins.
        """
        self._clean()
        if self._mode == INVALID:
            self._mode, self._recorded, self._skipped = RECORD, [], []
        elif self._mode == RECORD:
            self._complete()
            self._mode = COMPLETE
        self._queue = deque(self._trace)
        self._fetched_for = {}
        self._step = self._available = self._passed = 0

    def record(self, modules: Iterable[Module], skipped: Iterable[tuple[int, Used]]) -> None:
        """Record the order of the first pass, which gathers and releases each module by itself."""
        self._mode, self._recorded, self._skipped = RECORD, [*modules], [*skipped]

    def _clean(self) -> None:
        """Release what was gathered for modules that were not called. Every buffer lives until the last is released."""
        for each, gather in self._in_flight.items():
            gather.wait()
            self._release(each)
        for gather in self._in_flight.values():
            gather.drop()
        self._in_flight = {}

    def _drop_order(self) -> None:
        """Drop the recorded order, because another module runs than the recorded one.

        The next pass is recorded again.
        """
        self._mode = INVALID
        self._queue.clear()
        self._fetched_for = {}
        self._clean()

    @property
    def place(self) -> int:
        """The number of modules that have been called in this pass."""
        return self._step

    @property
    def available(self) -> int:
        """The number of elements that count as gathered."""
        return self._available

    def skip(self, elements: Used, available: int) -> None:
        """Skip modules that behave like those before them.

        `elements` are those that the skipped modules use. `available` is how many more elements stay gathered.
        """
        if self._mode == RECORD:
            self._skipped.append((self._step, elements))
        self._passed += 1
        self._available += available

    def used_since(self, place: int) -> Used:
        """Return the elements that modules use, from an index of the order up to the current module."""
        if self._mode == RECORD:
            return used(self._recorded[place:])
        if self._mode == INVALID:
            return NOTHING
        now, then = self._before[self._step], self._before[place]
        return Used(now[0] - then[0], now[1] - then[1])

    def looks_ahead_to(self, place: int) -> bool:
        """Return whether the module at an index, or a later one, is prefetched."""
        return self._is_complete and (not self._queue or self._queue[0][1] >= place)

    def found(self) -> Hashable:
        """Return the state that determines everything a pass gathers and releases."""
        return self._mode, self._live.bytes, self.state(lambda key: key), frozenset(self._persistent)

    @property
    def _persistent(self) -> Iterator[Key]:
        """The persistent parameters that are gathered."""
        return (each.key for each in self.parameters if each.persists and each.state == GATHERED)

    def state(self, relative: Callable[[Key], Hashable]) -> Hashable:
        """Return the state that determines what is gathered and released next, with keys relative to a layer.

        A recomputation adds what it gathers to the innermost module that is in its backward pass. Other modules in
        their backward pass have no effect unless they have parameters. A module whose input gets no gradient stays in
        its backward pass until the pass ends.
        """
        gathered = [
            each
            for each in self.parameters
            if each.active or each.state == IN_FLIGHT or (each.state == GATHERED and not each.persists)
        ]
        parameters = frozenset(
            [
                (
                    relative(each.key),
                    each.state,
                    frozenset([relative(module.key) for module in each.active]),
                    None if each.storage is None else (each.storage.bytes, each.storage.references),
                )
                for each in gathered
                if not _stays(each)
            ]
        )
        gathers = frozenset(
            [
                (
                    relative(each.key),
                    relative(gather.parameters[0].key),
                    gather.left,
                    *[own.bytes for own in gather.buffers],
                )
                for each, gather in self._in_flight.items()
            ]
        )
        running = [*self._in_backward.values()]
        in_backward = tuple(
            (relative(module.key), frozenset(relative(each.key) for each in module.recomputed))
            for number, module in enumerate(reversed(running))
            if (not number or module.parameters or module.recomputed) and not module.stays_in_backward
        )
        ahead = [(relative(each.key), place - self._step) for each, place in islice(self._queue, 1)]
        return parameters, gathers, in_backward, (*ahead,)

    def _complete(self) -> None:
        self._trace = []
        for each in self.parameters:
            each.in_order.clear()
            each.in_containers.clear()
        trace, modules = self._trace, dict.fromkeys(self._recorded)
        has_leaves = any(map(attrgetter("is_leaf"), modules))
        for place, module in enumerate(self._recorded):
            for each in module.parameters:
                trace.append((each, place))
                each.in_order.append(place)
            for each in module.inside if has_leaves else ():  # only leaf modules ask for these
                each.in_containers.append(place)
        sizes = {
            module: NOTHING.with_module(module) if module.parameters or module.inside else NOTHING for module in modules
        }
        own = [*map(sizes.__getitem__, self._recorded)]
        inside, outside = (accumulate(map(itemgetter(number), own), initial=0) for number in range(2))
        self._before = [*zip(inside, outside, strict=True)]

    def fetch(self, module: Module, *, recomputes: bool = False, backward: bool = False) -> None:
        """Gather a module's parameters, then prefetch those of later modules."""
        step, queue = self._step, self._queue
        if self._mode == RECORD:
            self._recorded.append(module)
        elif self._mode == COMPLETE and (step >= len(self._recorded) or self._recorded[step] is not module):
            self._drop_order()
        if backward:
            self._in_backward[module.number] = module
        if module.parameters:
            self._use(module, recomputes=recomputes)
            if queue and queue[0][1] <= step:
                self._pass_in_order(module)
        if self._mode == COMPLETE and self._bucket:
            left = self._max_live - self._available
            if left < self._bucket:
                self.limited += 1
            if left > 0 and queue:
                self._gather_ahead(left)
        self._step = step + 1

    def _use(self, module: Module, *, recomputes: bool) -> None:
        parameters, in_flight = module.parameters, self._in_flight
        for each in parameters:
            if each.state == PARTITIONED:
                self._gather([each for each in parameters if each.state == PARTITIONED])
        owner = next(reversed(self._in_backward.values())) if recomputes and self._in_backward else None
        for each in parameters:
            each.active.add(module)
            if owner is not None and not each.trained:
                owner.recomputed.add(each)
                each.active.add(owner)
            gather = in_flight.pop(each, None)
            if gather is not None:
                gather.wait()
                gather.drop()

    def _gather(self, parameters: list[Partitioned]) -> None:
        self._available += sum(each.elements for each in parameters)
        gather = Gather(self._live, parameters, self._sizes)
        in_copies = self._live.in_copies
        for each in parameters:
            if each.represents > 1 and not in_copies:
                self.is_apart = True
            self.sent += each.payload if in_copies else each.payload * each.represents
            each.state = IN_FLIGHT
            self._in_flight[each] = gather

    def _payload(self, each: Partitioned) -> int:
        return each.payload if self._live.in_copies else each.payload * each.represents

    def _pass_in_order(self, module: Module) -> None:
        """Remove a module's parameters from the queue, if no prefetch has removed them."""
        queue, fetched_for, step = self._queue, self._fetched_for, self._step
        own = len([each for each in module.parameters if fetched_for.get(each, -1) < step])
        known: set[Partitioned] = set()
        while own > len(known) and queue:
            each, place = queue.popleft()
            fetched_for[each] = place
            known.add(each)

    def _gather_ahead(self, left: int) -> None:
        """Prefetch parameters until they fill a bucket, or until `left` elements are gathered."""
        queue, fetched_for, most = self._queue, self._fetched_for, min(left, self._bucket)
        chosen: dict[Partitioned, None] = {}
        total = before_last = 0
        while queue and total < most:
            each, place = queue.popleft()
            fetched_for[each] = place  # indices only increase
            if each.state == PARTITIONED and each not in chosen:
                chosen[each] = None
                before_last, total = total, total + each.elements
        self.slack = min(self.slack, left - before_last)
        if chosen:
            self._gather([*chosen])

    def release(self, module: Module, *, backward: bool = False) -> None:
        """Free the parameters of a module that are not used again soon.

        In each forward pass of a module, DeepSpeed starts to count the inputs whose gradients are expected. A forward
        pass without a graph, such as that of a reference model, resets that count. So DeepSpeed misses the end of the
        earlier pass's backward pass. Source: deepspeed/runtime/zero/parameter_offload.py, ds_grads_remaining.
        """
        if backward and module.stays_in_backward:
            return
        freed: Iterable[Partitioned] = ()
        if module.parameters:
            freed = self._to_release(module)
            for each in module.parameters:
                each.active.discard(module)
        if backward:
            self._in_backward.pop(module.number, None)
            if module.recomputed:
                for each in module.recomputed:
                    each.active.discard(module)
                freed = {*freed, *[each for each in module.recomputed if not each.persists]}
                module.recomputed.clear()
        for each in freed:
            if each.state == GATHERED and not each.active:
                each.release()
                self._available -= each.elements

    def _to_release(self, module: Module) -> Sequence[Partitioned]:
        """Return the parameters to free: no prefetch skipped them, and their next use is far away.

        The result for a module at an index is cached, because it is the same in all later passes.
        """
        if self._mode != COMPLETE:
            return module.parameters
        step, skipped, of_leaf = self._step, self._fetched_for, module.is_leaf
        found = self._released.get((module.number, step))
        if found is None:
            found = self._released[module.number, step] = []
            for each in module.parameters:
                if not (each.persists or skipped.get(each, -1) > step) and self._is_far(each, of_leaf=of_leaf):
                    found.append(each)
        return found

    def _is_far(self, each: Partitioned, *, of_leaf: bool) -> bool:
        """Return whether a parameter is not used again soon.

        For a leaf module, DeepSpeed counts the elements of all modules inside those in between, and a call of a module
        around it counts as a use. For other modules, it counts the modules in between alone, and leaf modules count as
        zero (__params_to_release).
        """
        step, before, most = self._step, self._before, self._sizes.max_reuse_distance
        following = _next(each.in_order, step)
        if of_leaf and each.in_containers:
            inside = _next(each.in_containers, step)
            following = inside if following is None or (inside is not None and inside < following) else following
        if following is None:
            return True
        number = 0 if of_leaf else 1
        distance = before[following][number] - before[step][number]
        between = self._skipped[self._passed :]
        if distance >= most or not between:
            return distance >= most
        return distance + sum([skipped[number] for place, skipped in between if place <= following]) >= most

    def _release(self, each: Partitioned) -> None:
        if each.state == GATHERED and not each.active:
            each.release()
            self._available -= each.elements

    def end_backward(self) -> None:
        """Release the parameters of modules whose inputs got no gradient."""
        while self._in_backward:
            _, module = self._in_backward.popitem()
            for each in {*module.parameters, *module.recomputed}:
                each.active.discard(module)
                if not each.persists:
                    self._release(each)
            module.recomputed.clear()

    def release_all(self) -> None:
        """Release every parameter, before the optimizer's step."""
        for each in self.parameters:
            gather = self._in_flight.pop(each, None)
            if gather is not None:
                gather.wait()
                gather.drop()
            each.active.clear()
            self._release(each)

    def gather_persistent(self) -> None:
        """Gather the persistent parameters after the optimizer's step."""
        self._gather_apart([each for each in self.parameters if each.persists])

    def gather_all(self) -> None:
        """Gather every parameter that is not gathered (deepspeed.zero.GatheredParameters)."""
        self._gather_apart([each for each in self.parameters if each.state == PARTITIONED])

    def _gather_apart(self, parameters: list[Partitioned]) -> None:
        """Gather each parameter into a buffer of its own."""
        for each in parameters:
            each.storage, each.state = Storage(self._live, each.with_padding, each.represents), GATHERED
            self.sent += self._payload(each)
        upload(self._live, parameters, self._sizes)

    def partition_all(self) -> None:
        """Release every parameter, including persistent ones, and drop the recorded order.

        Source: trl/models/utils.py, add_hooks; partition_parameters.py, GatheredParameters.__exit__.
        """
        if self._mode != INVALID:
            self._drop_order()
        for each in self.parameters:
            each.active.clear()
        self._partition()

    def read_whole(self, *, one_by_one: bool) -> None:
        """Gather weights that vLLM reads, one after the other or all at once, and partition each again.

        Those that persist are partitioned too. The order of modules stays.

        Source: trl/generation/vllm_generation.py, _iter_named_params.
        """
        if not one_by_one:
            self.gather_all()
            self._partition()
            return
        live = self._live
        for each in self.parameters:
            if each.state == PARTITIONED:
                self.sent += self._payload(each)
                live.in_copies = True  # one copy after the other
                own = Storage(live, each.with_padding)
                upload(live, [each], self._sizes)
                own.drop()
                live.in_copies = False
            each.release()

    def _partition(self) -> None:
        for each in self.parameters:
            each.release()


def _next(places: Sequence[int], step: int) -> int | None:
    """Return the first of some sorted indices from a step on, or None."""
    at = bisect_left(places, step)
    return places[at] if at < len(places) else None


def _stays(parameter: Partitioned) -> bool:
    """Return whether a parameter is sure to stay gathered until the backward pass has ended."""
    return bool(parameter.active) and all(module.stays_in_backward for module in parameter.active)
