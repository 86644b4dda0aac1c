"""A traced step in the form of a run, for replays of PyTorch's caching allocator."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.loading import Loading
from calculator.allocator.replay import Replay, steady_reserved
from calculator.estimation.device_replay import DeviceReplay
from calculator.resident.tensor import ResidentTensor
from calculator.training_step.step_batches import LATER_MICRO_BATCHES, StepBatches
from calculator.training_step.unrolled import Events

if TYPE_CHECKING:
    from typing import Any

    from calculator.estimation.traced.document import TraceDocument
    from calculator.inputs.training import Training

#: The names of a batch's tensors, whose copies to the device begin a micro-batch.
BATCH = ("input_ids", "attention_mask", "labels")


#: The part of a row's name that marks a matrix product.
_PRODUCT = re.compile(r"(?:^|: )(?:mm|addmm|bmm|baddbmm|_grouped_mm|bitsandbytes\.gemm_4bit)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedState:
    """The attributes of a traced step that a replay needs, with the names of `ResidentState`.

    Attributes:
        training: The training settings.
        tensors: The loaded tensors.
        optimizer_states: The tensors that the first optimizer step creates.
        step_temporaries: The tensors that are alive only in the optimizer's step, at its peak.
        micro_batches: The events of a step's first micro-batch, and of the later ones if there are some.
        buckets: None: a trace is of one GPU.
        while_fetching: Empty: a traced step has no earlier batches.
    """

    training: Training
    tensors: tuple[ResidentTensor, ...]
    optimizer_states: tuple[ResidentTensor, ...]
    step_temporaries: tuple[ResidentTensor, ...]
    micro_batches: tuple[Events, Events | None]
    buckets: None = None
    while_fetching: tuple[ResidentTensor, ...] = ()

    @property
    def frees_gradients(self) -> bool:
        """Whether the gradients are freed before the optimizer's step."""
        return self.training.has_bucket_views

    @property
    def replayed_states(self) -> tuple[ResidentTensor, ...]:
        """The optimizer's states, as a replay allocates them."""
        return self.optimizer_states

    @property
    def replayed_temporaries(self) -> tuple[ResidentTensor, ...]:
        """The temporaries of an optimizer step, as a replay allocates them."""
        return self.step_temporaries


def state_of(document: TraceDocument, training: Training) -> TracedState:
    """Return the state of a traced step."""
    passes = _passes(document)
    return TracedState(
        training=training,
        tensors=tuple(tensor.resident() for tensor in document.loaded),
        optimizer_states=_kinds(document, range(document.static), "optimizer_states"),
        step_temporaries=_temporaries(document),
        micro_batches=(passes[0], passes[1] if len(passes) > 1 else None),
    )


def _kinds(document: TraceDocument, storages: Any, component: str | None = None) -> tuple[ResidentTensor, ...]:
    counts = Counter(map(document.kind, storages))
    return tuple(
        ResidentTensor(
            name=kind.name,
            shape=kind.shape,
            dtype=kind.dtype,  # type: ignore[arg-type]  # only its bytes count here
            component=kind.component,
            count=count,
            bytes=kind.bytes * count,
        )
        for kind, count in counts.items()
        if component in {None, kind.component}
    )


def _temporaries(document: TraceDocument) -> tuple[ResidentTensor, ...]:
    start = next(at for at, phase in document.phase_starts if phase == "optimizer_step")
    new = {number for number in document.events[start:] if number >= 0}
    alive = document.alive_after(document.peaks["optimizer_step"].event)
    return _kinds(document, (number for number in alive if number in new))


def _passes(document: TraceDocument) -> list[Events]:
    """Return the events of each traced micro-batch. They include its own storages and its batch."""
    starts = [at for at, _ in document.phase_starts]
    rows = [document.kind(number) for number in range(len(document.storages))]
    products = {row.name for row in rows if _PRODUCT.search(row.name)}
    batch = [number for number in range(document.static) if document.kind(number).name in BATCH]
    passes: list[Events] = []
    for forward, backward, end in zip(starts[::2], starts[1::2], starts[2::2], strict=False):
        pass_rows = {*(number for number in document.events[forward:end] if number >= 0), *batch}
        first, second = (
            [event for event in document.events[low:high] if max(event, ~event) in pass_rows]
            for low, high in ((forward, backward), (backward, end))
        )
        alive = _alive([*batch, *first, *second])
        gradients = [number for number in alive if rows[number].component == "gradients"]
        left = [number for number in alive if rows[number].component != "gradients"]
        passes.append(
            Events(
                rows=rows,  # type: ignore[arg-type]  # a kind has the fields of an allocation
                forward=[*batch, *first],
                backward=second,
                gradients=gradients,
                left=left,
                products=products,
            )
        )
    return passes


def _alive(events: list[int]) -> list[int]:
    alive: dict[int, None] = {}
    for event in events:
        if event >= 0:
            alive[event] = None
        else:
            alive.pop(~event, None)
    return list(alive)


class TracedReplay(Replay):
    """The allocations of a traced run in order, served by one allocator."""

    __slots__ = ()

    resident: TracedState  # type: ignore[assignment]

    def _training(self) -> Training:
        return self.resident.training

    def _micro_batches(self) -> StepBatches[Events]:
        first, later = self.resident.micro_batches
        return StepBatches(first, later, min(self.training.gradient_accumulation_steps - 1, LATER_MICRO_BATCHES))


class TracedDeviceReplay(DeviceReplay):
    """A traced run, for replays on devices."""

    resident: TracedState  # type: ignore[assignment]

    def _with_options(self, *args: Any, **options: Any) -> TracedDeviceReplay:
        return TracedDeviceReplay(*args, **options)

    def _peak_reserved(self) -> int:
        return steady_reserved(self._run.for_allocator(CachingAllocator(self.conf)))

    @cached_property
    def _loading(self) -> Loading:
        return Loading(self.resident.tensors, self.resident.training)

    @cached_property
    def _run(self) -> Replay:
        return TracedReplay(CachingAllocator(), self.resident, self.workspaces, self._loading)  # type: ignore[arg-type]
