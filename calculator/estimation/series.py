"""A cache that consecutive requests of a series share, so that only their differences are computed again."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from operator import is_
from typing import TYPE_CHECKING, Any

from calculator.common.deferred import Deferred
from calculator.inputs.size_settings import other_settings, sizes
from calculator.methods.prepared_model import PreparedModel
from calculator.training_step.resident_state import ResidentState
from calculator.training_step.size_cache import SizeCache
from calculator.training_step.step import TrainingStep
from calculator.training_step.symbolic_trace import TraceCache
from calculator.training_step.unrolled_cache import UnrolledCache

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from calculator.architecture.model import Model
    from calculator.estimation.answer import Remarks
    from calculator.estimation.request import ModelReference, Request
    from calculator.inputs.device import Device
    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training
    from calculator.methods import Method


#: The maximum number of runs of a series whose replays are cached. Each takes some figures.
MAX_REPLAYED = 64


def _is_same(reference: ModelReference, before: ModelReference) -> bool:
    """Return whether two requests have the same model.

    Two different configs can compare equal, because Python's 1 equals true.
    """
    return reference is before or (reference == before and reference.config is before.config)


class SeriesCache:
    """The last request's model, resident state and step, and traces of requests that differ in sizes alone.

    An answer is the same with and without a cache. The cache keeps one model, state and step, so it does not grow. With
    `traces_first`, the first request is traced with symbolic sizes too. It then takes somewhat longer, and all others
    are quick. `replays_several` does the same for the micro-batches that replays unroll, if several replays are
    expected.
    """

    __slots__ = (
        "_prepared",
        "_replays",
        "_traces_first",
        "_training",
        "model",
        "reference",
        "remarks",
        "remarks_key",
        "state",
        "state_key",
        "step",
        "step_key",
        "traces",
        "unrolled",
    )

    def __init__(self, *, traces_first: bool = False, replays_several: bool = False) -> None:
        self._traces_first = traces_first
        #: The model with its method applied that a check has read, with what it was made of.
        self._prepared: tuple[tuple[object, ...], PreparedModel] | None = None
        #: The training whose settings were read last, and those that are not sizes.
        self._training: tuple[Training, Deferred[tuple[object, ...]]] | None = None
        self.reference: ModelReference | None = None
        self.model: Model | None = None
        self.state_key: object = None
        self.state: ResidentState | None = None
        self.remarks_key: object = None
        self.remarks: SizeCache[Callable[[], Remarks]] | None = None
        self.step_key: object = None
        self.step: TrainingStep | None = None
        self.traces = TraceCache(traces_first=traces_first)
        self.unrolled = UnrolledCache(traces_first=traces_first or replays_several)
        self._replays: OrderedDict[Hashable, dict[Hashable, Any]] = OrderedDict()

    def model_of(self, reference: ModelReference, build: Callable[[ModelReference], Model]) -> Model:
        """Return the model of a request."""
        before = self.reference
        if self.model is None or before is None or not _is_same(reference, before):
            self.model, self.reference = build(reference), reference
            self._replays.clear()
        return self.model

    def remarks_on(self, request: Request, model: Model) -> SizeCache[Callable[[], Remarks]]:
        """Return the cache of remarks for requests that differ from this one in sizes alone."""
        others = Deferred(partial(other_settings, request.method)), self._others_of(request.training)
        key = (id(model), *others, request.device, request.stack, request.reserved, request.length_given)
        if self.remarks is None or key != self.remarks_key:
            self.remarks_key, self.remarks = key, SizeCache(traces_first=self._traces_first)
        return self.remarks

    def _others_of(self, training: Training) -> Deferred[tuple[object, ...]]:
        """Return the settings of a training that are not sizes. They are read when a second request is compared."""
        if self._training is None or self._training[0] is not training:
            self._training = training, Deferred(partial(other_settings, training))
        return self._training[1]

    def replays(self, run: Hashable) -> dict[Hashable, Any]:
        """Return the cached replays of a run of the model.

        Only the last `MAX_REPLAYED` runs are kept.
        """
        self._replays[run] = replays = self._replays.pop(run, {})
        if len(self._replays) > MAX_REPLAYED:
            self._replays.popitem(last=False)
        return replays

    def prepared_model(
        self, model: Model, method: Method, training: Training, device: Device, stack: StackVersions
    ) -> PreparedModel:
        """Return a request's model with its method applied, which its resident state then uses."""
        arguments = model, method, training, device, stack
        if self._prepared is None or not all(map(is_, self._prepared[0], arguments)):
            self._prepared = arguments, PreparedModel(*arguments)
        return self._prepared[1]

    def resident_state(
        self, model: Model, method: Method, training: Training, device: Device, stack: StackVersions
    ) -> ResidentState:
        """Return the resident state of a request. Length, accumulation and GPU do not change its tensors.

        In a batch of one image, the gradient of the class token is a view of a larger tensor.
        """
        one_image = model.task.name == "image_cls" and training.micro_batch_size == 1
        device_key = device.type, device.sharding, device.sharded_over
        key = (id(model), method, self._others_of(training), stack, *device_key, one_image)
        if self.state is not None and key == self.state_key:
            self.state = self.state.for_run(training, device)
        else:
            prepared = self.prepared_model(model, method, training, device, stack)
            self.state, self.state_key = ResidentState(prepared, self.unrolled), key
        self._prepared = None
        return self.state

    def step_of(self, resident: ResidentState, *, whole: bool) -> TrainingStep:
        """Return the step of the last resident state.

        It is the previous step if the two differ in the GPU alone.
        """
        prepared, device = resident.prepared, resident.prepared.device
        divided = (device.count, device.sharding, device.nodes)
        key = (self.state_key, Deferred(partial(sizes, prepared.given)), divided, prepared.kernels, whole)
        if self.step is None or key != self.step_key:
            self.step, self.step_key = TrainingStep(resident, traces=self.traces, whole=whole), key
        return self.step
