"""When stage 3 gathers and releases parameters: around each call of a module, and ahead of it once it knows the order.

Source: deepspeed/runtime/zero/partitioned_param_coordinator.py.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE, allocated
from calculator.sharding.zero3.parameters import GATHERED, IN_FLIGHT, PARTITIONED, Storage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.sharding.zero3.parameters import Live, Module, Partitioned
    from calculator.sharding.zero3.sizes import Sizes


class Gather:
    """An all-gather: of one parameter into its own buffer, or of several into one that is copied out at the end."""

    __slots__ = ("buffers", "is_done", "left", "live", "parameters")

    def __init__(self, live: Live, parameters: list[Partitioned], sizes: Sizes) -> None:
        self.live, self.parameters = live, parameters
        self.left, self.is_done = len(parameters), False
        self.buffers: list[Storage] = []
        if len(parameters) == 1:
            (only,) = parameters
            only.storage = Storage(live, only.with_padding)
            upload(live, parameters, sizes)
            return
        for dtype in dict.fromkeys(each.dtype for each in parameters):
            own = [each for each in parameters if each.dtype == dtype]
            self.buffers.append(
                Storage(live, allocated(sum(each.partition for each in own) * sizes.ranks, ITEMSIZE[dtype]))
            )
            upload(live, own, sizes)

    def wait(self) -> None:
        """Make the gathered parameters available."""
        if self.is_done:
            return
        self.is_done = True
        for each in self.parameters:
            if self.buffers:
                each.storage = Storage(self.live, each.whole)
            each.state = GATHERED

    def drop(self) -> None:
        """Drop one parameter's reference. The buffers live as long as any has one."""
        self.left -= 1
        if not self.left:
            for buffer in self.buffers:
                buffer.drop()


def upload(live: Live, parameters: list[Partitioned], sizes: Sizes) -> None:
    """Copy offloaded partitions to the GPU, where the all-gather reads them."""
    if not sizes.offloads_parameters:
        return
    copied = sum(allocated(each.partition, ITEMSIZE[each.dtype]) for each in parameters)
    live.add(copied)
    live.bytes -= copied


class Coordinator:
    """DeepSpeed's coordinator in a run from its first step on. It records the order of modules in the first pass."""

    def __init__(self, sizes: Sizes, live: Live, parameters: list[Partitioned]) -> None:
        self._sizes, self._live, self.parameters = sizes, live, parameters
        self._in_flight: dict[Partitioned, Gather] = {}
        self._passes = self._step = self._available = 0
        #: The bytes that all-gathers have resulted in.
        self.sent = 0
        self._recorded: list[Module] = []
        #: The elements that the recorded modules before each place use.
        self._before: list[int] = [0]
        self._trace: list[tuple[Partitioned, int]] = []
        self._queue: deque[tuple[Partitioned, int]] = deque()
        self._fetched_for: dict[Partitioned, int] = {}
        self._in_backward: dict[int, Module] = {}
        self._released: dict[tuple[int, int], frozenset[Partitioned]] = {}

    @property
    def _is_complete(self) -> bool:
        return self._passes > 1

    def begin(self) -> None:
        """Begin a forward pass."""
        for each, gather in self._in_flight.items():
            gather.wait()
            self._release(each)
            gather.drop()
        self._in_flight = {}
        self._passes += 1
        if self._passes == 2:
            self._complete()
        self._queue = deque(self._trace)
        self._fetched_for = {}
        self._step = self._available = 0

    def _complete(self) -> None:
        for place, module in enumerate(self._recorded):
            for each in module.parameters:
                self._trace.append((each, place))
                each.in_order.append(place)
            self._before.append(self._before[-1] + sum(each.elements for each in module.parameters))

    def fetch(self, module: Module, *, recomputes: bool = False, backward: bool = False) -> None:
        """Gather a module's parameters, then those of the modules to come."""
        if self._passes == 1:
            self._recorded.append(module)
        if backward:
            self._in_backward[module.number] = module
        self._gather([each for each in module.parameters if each.state == PARTITIONED])
        owner = next(reversed(self._in_backward.values())) if recomputes and self._in_backward else None
        for each in module.parameters:
            each.active.add(module.number)
            if owner is not None and not each.trained:
                owner.recomputed.add(each)
                each.active.add(owner.number)
            gather = self._in_flight.pop(each, None)
            if gather is not None:
                gather.wait()
                gather.drop()
        if self._is_complete:
            self._prefetch(module)
        self._step += 1

    def _gather(self, parameters: list[Partitioned]) -> None:
        if not parameters:
            return
        self._available += sum(each.elements for each in parameters)
        gather = Gather(self._live, parameters, self._sizes)
        for each in parameters:
            self.sent += self._payload(each)
            each.state = IN_FLIGHT
            self._in_flight[each] = gather

    def _payload(self, each: Partitioned) -> int:
        return each.partition * self._sizes.ranks * ITEMSIZE[each.dtype]

    def _prefetch(self, module: Module) -> None:
        own = sum(self._fetched_for.get(each, -1) < self._step for each in module.parameters)
        known: set[Partitioned] = set()
        while self._queue and len(known) < own:
            each, place = self._queue.popleft()
            self._fetched_for[each] = place
            known.add(each)
        if not self._sizes.prefetch_bucket:
            return
        most = min(self._sizes.max_live - self._available, self._sizes.prefetch_bucket)
        chosen: dict[Partitioned, None] = {}
        total = 0
        while self._queue and total < most:
            each, place = self._queue.popleft()
            self._fetched_for[each] = max(self._fetched_for.get(each, place), place)
            if each.state == PARTITIONED and each not in chosen:
                chosen[each] = None
                total += each.elements
        self._gather([*chosen])

    def release(self, module: Module, *, backward: bool = False) -> None:
        """Free a module's parameters that are not used again soon."""
        freed = self._to_release(module)
        parameters: Iterable[Partitioned] = module.parameters
        if backward:
            freed = freed | {each for each in module.recomputed if not each.persists}
            parameters = {*parameters, *module.recomputed}
            module.recomputed.clear()
            self._in_backward.pop(module.number, None)
        for each in parameters:
            each.active.discard(module.number)
            if each in freed:
                self._release(each)

    def _to_release(self, module: Module) -> frozenset[Partitioned]:
        if not self._is_complete:
            return frozenset(module.parameters)
        key = module.number, self._step
        if key not in self._released:
            self._released[key] = frozenset(each for each in module.parameters if self._is_done(each))
        return self._released[key]

    def _is_done(self, each: Partitioned) -> bool:
        """Whether a parameter is not needed soon: it was not skipped by a prefetch, and its next use is far away."""
        step = self._step
        if each.persists or self._fetched_for.get(each, -1) > step:
            return False
        at = bisect_left(each.in_order, step)
        if at == len(each.in_order):
            return True
        return self._before[each.in_order[at]] - self._before[step] >= self._sizes.max_reuse_distance

    def _release(self, each: Partitioned) -> None:
        if each.state == GATHERED and not each.active:
            each.release()
            self._available -= each.elements

    def end_backward(self) -> None:
        """Release the parameters of modules whose inputs got no gradient."""
        while self._in_backward:
            _, module = self._in_backward.popitem()
            for each in {*module.parameters, *module.recomputed}:
                each.active.discard(module.number)
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
        """Gather the parameters that stay whole, after the optimizer's step."""
        persistent = [each for each in self.parameters if each.persists]
        for each in persistent:
            each.storage, each.state = Storage(self._live, each.with_padding), GATHERED
            self.sent += self._payload(each)
        upload(self._live, persistent, self._sizes)
