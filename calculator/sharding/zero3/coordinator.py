"""When stage 3 gathers and releases parameters.

It gathers them around each call of a module, and prefetches them once it has recorded the order of modules.

Source: deepspeed/runtime/zero/partitioned_param_coordinator.py.
"""

from __future__ import annotations

from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING

from calculator.sharding.zero3.coordinator_state import backward_state, gather_state, parameter_state
from calculator.sharding.zero3.gather import Gather, upload
from calculator.sharding.zero3.module_order import COMPLETE, INVALID, ModuleOrder
from calculator.sharding.zero3.parameters import ELEMENTS, GATHERED, IN_FLIGHT, PARTITIONED, Storage

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from calculator.sharding.zero.parameters import Key
    from calculator.sharding.zero3.parameters import Live, Module, Partitioned
    from calculator.sharding.zero3.sizes import Sizes
    from calculator.sharding.zero3.used_elements import Used


_PAYLOAD = attrgetter("payload")


class Coordinator:
    """DeepSpeed's parameter coordinator in a run from its first step on.

    It records the order of modules in the first pass.
    """

    def __init__(self, sizes: Sizes, live: Live, parameters: list[Partitioned]) -> None:
        self._sizes, self._live, self.parameters = sizes, live, parameters
        self._bucket, self._max_live = sizes.prefetch_bucket, sizes.max_live
        self._in_flight: dict[Partitioned, Gather] = {}
        self._persistent = [parameter for parameter in parameters if parameter.persists]
        self.order = ModuleOrder(parameters, sizes.max_reuse_distance)
        #: The number of elements that count as gathered.
        self.available = 0
        #: The bytes that all-gathers have resulted in.
        self.sent = 0
        self._in_backward: dict[int, Module] = {}
        #: The number of prefetches that were smaller because too many parameters were gathered.
        self.limited = 0
        #: The number of further elements that could be gathered without changing a prefetch since the last reset.
        self.slack: float = inf
        #: Whether a parameter that represents other copies was gathered outside of the copies, where it stands for one
        #: alone.
        self.is_apart = False
        #: Whether all persistent parameters are gathered. While the recorded order is followed, they stay so.
        self.is_settled = False

    @property
    def limits(self) -> tuple[float, float]:
        """The numbers of gathered elements from which on nothing is prefetched, and above which less is."""
        return (self._max_live, self._max_live - self._bucket) if self._bucket else (-inf, inf)

    def begin(self) -> None:
        """Begin a forward pass."""
        self._release_uncalled()
        self.order.begin()
        self.available = 0
        self.is_settled = {*map(attrgetter("state"), self._persistent)} <= {GATHERED}

    def _release_uncalled(self) -> None:
        """Release what was gathered for modules that were not called. Every buffer lives until the last is released."""
        for key, gather in self._in_flight.items():
            gather.wait()
            self._release(key)
        for gather in self._in_flight.values():
            gather.drop()
        self._in_flight = {}

    def _drop_order(self) -> None:
        """Drop the recorded order, because another module runs than the recorded one."""
        self.order.drop()
        self._release_uncalled()

    def skip(self, elements: Used, available: int) -> None:
        """Skip modules that behave like those before them.

        `elements` are those that the skipped modules use. `available` is how many more elements stay gathered.
        """
        self.order.skip(elements)
        self.available += available

    def state_key(self) -> Hashable:
        """Return the state that determines everything a pass gathers and releases."""
        persistent = (parameter.key for parameter in self._persistent if parameter.state == GATHERED)
        return self.order.mode, self._live.bytes, self.state(lambda key: key), frozenset(persistent)

    def state(self, relative: Callable[[Key], Hashable]) -> Hashable:
        """Return the state that determines what is gathered and released next, with keys relative to a layer."""
        queue = self.order.queue
        ahead = (relative(queue[0][0].key), queue[0][1] - self.order.place) if queue else None
        gathered = parameter_state(self.parameters, relative), gather_state(self._in_flight, relative)
        return *gathered, backward_state([*self._in_backward.values()], relative), ahead

    def fetch(self, module: Module, *, recomputes: bool = False, backward: bool = False) -> None:
        """Gather a module's parameters, then prefetch those of later modules."""
        order = self.order
        if not order.reach(module):
            self._drop_order()
        if backward:
            self._in_backward[module.number] = module
        if module.parameters:
            self._use(module, recomputes=recomputes)
            order.use(module)
        if order.mode == COMPLETE and self._bucket:
            self._prefetch()
        order.place += 1

    def fetch_known(self, module: Module, known: Sequence[int]) -> None:
        """Gather the parameters of a module that are at the indices `known`; all of its others are gathered.

        Which modules use its parameters is known. Then prefetch those of later modules.
        """
        if known:
            unused = [module.parameters[at] for at in known]
            self._gather_missing(unused)
            self._wait(unused)
        order = self.order
        if order.queue and order.queue[0][1] <= order.place:
            order.use(module)
        if self._bucket:
            self._prefetch()

    def leave_open(self, module: Module) -> None:
        """Note that a module's backward pass has begun, and does not end."""
        self._in_backward[module.number] = module

    def _prefetch(self) -> None:
        """Gather parameters of later modules until they fill a bucket, or until too many elements are gathered."""
        left = self._max_live - self.available
        if left < self._bucket:
            self.limited += 1
        if left > 0 and self.order.queue:
            chosen, before_last = self.order.look_ahead(min(left, self._bucket))
            self.slack = min(self.slack, left - before_last)
            if chosen:
                self._gather(chosen)

    def _use(self, module: Module, *, recomputes: bool) -> None:
        parameters = module.parameters
        self._gather_missing(parameters)
        owner = next(reversed(self._in_backward.values())) if recomputes and self._in_backward else None
        for parameter in parameters:
            parameter.active.add(module)
            if owner is not None and not parameter.trained:
                owner.recomputed.add(parameter)
                parameter.active.add(owner)
        self._wait(parameters)

    def _gather_missing(self, parameters: Sequence[Partitioned]) -> None:
        for parameter in parameters:
            if parameter.state == PARTITIONED:
                self._gather([parameter for parameter in parameters if parameter.state == PARTITIONED])
                return

    def _wait(self, parameters: Sequence[Partitioned]) -> None:
        in_flight = self._in_flight
        for parameter in parameters:
            gather = in_flight.pop(parameter, None)
            if gather is not None:
                gather.take()

    def _gather(self, parameters: list[Partitioned]) -> None:
        self.available += sum(map(ELEMENTS, parameters))
        gather = Gather(self._live, parameters, self._sizes)
        if self._live.in_copies:
            self.sent += sum(map(_PAYLOAD, parameters))
        else:
            self.sent += sum([parameter.payload * parameter.represents for parameter in parameters])
            self.is_apart = self.is_apart or any(parameter.represents > 1 for parameter in parameters)
        for parameter in parameters:
            parameter.state = IN_FLIGHT
            self._in_flight[parameter] = gather

    def _payload(self, parameter: Partitioned) -> int:
        return parameter.payload if self._live.in_copies else parameter.payload * parameter.represents

    def release(self, module: Module, *, backward: bool = False) -> None:
        """Free the parameters of a module that are not used again soon.

        In each forward pass of a module, DeepSpeed starts to count the inputs whose gradients are expected. A forward
        no-grad pass, such as that of a reference model, resets that count. So DeepSpeed misses the end of the
        earlier pass's backward pass. Source: deepspeed/runtime/zero/parameter_offload.py, ds_grads_remaining.
        """
        if backward and module.stays_in_backward:
            return
        freed: Iterable[Partitioned] = ()
        if module.parameters or module.read:
            freed = self.order.to_release(module)
            for parameter in module.parameters:
                parameter.active.discard(module)
        if backward:
            self._in_backward.pop(module.number, None)
            if module.recomputed:
                for parameter in module.recomputed:
                    parameter.active.discard(module)
                freed = {*freed, *[parameter for parameter in module.recomputed if not parameter.persists]}
                module.recomputed.clear()
        for parameter in freed:
            if parameter.state == GATHERED and not parameter.active:
                parameter.release()
                self.available -= parameter.elements

    def release_known(self, module: Module, known: Sequence[int], recomputed: Iterable[Partitioned]) -> None:
        """Release the parameters of a module that are at the indices `known`, which no other module uses."""
        if known:
            parameters, far = module.parameters, self.order.to_release(module)
            for at in known:
                if parameters[at].state == GATHERED and parameters[at] in far:
                    parameters[at].release()
                    self.available -= parameters[at].elements
        for parameter in recomputed:
            if parameter.state == GATHERED:
                parameter.release()
                self.available -= parameter.elements

    def _release(self, parameter: Partitioned) -> None:
        if parameter.state == GATHERED and not parameter.active:
            parameter.release()
            self.available -= parameter.elements

    def end_backward(self) -> None:
        """Release the parameters of modules whose inputs got no gradient."""
        while self._in_backward:
            _, module = self._in_backward.popitem()
            for parameter in {*module.parameters, *module.recomputed}:
                parameter.active.discard(module)
                if not parameter.persists:
                    self._release(parameter)
            module.recomputed.clear()

    def release_all(self) -> None:
        """Release every parameter, before the optimizer's step."""
        for parameter in self.parameters:
            gather = self._in_flight.pop(parameter, None)
            if gather is not None:
                gather.take()
            parameter.active.clear()
            self._release(parameter)

    def gather_persistent(self) -> None:
        """Gather the persistent parameters after the optimizer's step."""
        self._gather_separately(self._persistent)

    def gather_all(self) -> None:
        """Gather every parameter that is not gathered (deepspeed.zero.GatheredParameters)."""
        self._gather_separately([parameter for parameter in self.parameters if parameter.state == PARTITIONED])

    def _gather_separately(self, parameters: list[Partitioned]) -> None:
        """Gather each parameter into a buffer of its own."""
        for parameter in parameters:
            parameter.storage, parameter.state = (
                Storage(self._live, parameter.with_padding, parameter.represents),
                GATHERED,
            )
            self.sent += self._payload(parameter)
        upload(self._live, parameters, self._sizes)

    def partition_all(self) -> None:
        """Release every parameter, including persistent ones, and drop the recorded order.

        Source: trl/models/utils.py, add_hooks; partition_parameters.py, GatheredParameters.__exit__.
        """
        if self.order.mode != INVALID:
            self._drop_order()
        for parameter in self.parameters:
            parameter.active.clear()
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
        for parameter in self.parameters:
            if parameter.state == PARTITIONED:
                self.sent += self._payload(parameter)
                live.in_copies = True  # one copy after the other
                storage = Storage(live, parameter.with_padding)
                upload(live, [parameter], self._sizes)
                storage.drop()
                live.in_copies = False
            parameter.release()

    def _partition(self) -> None:
        for parameter in self.parameters:
            parameter.release()
