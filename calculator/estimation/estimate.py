"""The estimate of a request."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from calculator import catalogue
from calculator.allocator.alloc_conf import parse_alloc_conf
from calculator.allocator.reserved_rule import between_steps, generation_bytes
from calculator.common.budget import check_budget
from calculator.common.deferred import Deferred
from calculator.common.errors import refusal
from calculator.common.garbage import without_collections
from calculator.devices import caveats, cuda_context, workspaces
from calculator.devices.colocated_engine import ColocatedEngine
from calculator.devices.kernels import kernels_of
from calculator.devices.verdict import card_of
from calculator.estimation import initialization, textbook
from calculator.estimation.answer import (
    Estimate,
    Memory,
    ModelSummary,
    ParameterCounts,
    Phase,
    Remarks,
    StoredBytes,
)
from calculator.estimation.checked import checked_by_sizes
from calculator.estimation.cuda_remarks import remarks as of_cuda
from calculator.estimation.cudnn_attention import remarks as of_kernel
from calculator.estimation.generating_replay import GeneratingReplay
from calculator.estimation.history_replay import Histories, replay_of
from calculator.estimation.interval import with_interval
from calculator.estimation.memory_and_fit import memory_and_fit
from calculator.estimation.positions import within_positions
from calculator.estimation.recent_series import RECENT_SERIES
from calculator.estimation.remarks import rank_assumptions, verdict_assumptions, without_gradient
from calculator.estimation.request import reserved_by
from calculator.estimation.sample_lengths import with_longest_batch
from calculator.estimation.series import SeriesCache
from calculator.estimation.several_gpus import check_device
from calculator.estimation.step_figures import figures_of, phases, reserved_by_rule
from calculator.estimation.timeline import timeline
from calculator.estimation.unsharded import unsharded_bytes
from calculator.families import FAMILIES, model_from_config
from calculator.inputs.sharding import STAGES
from calculator.resident.tensors import parameters
from calculator.sharding.registry import SHARDS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from calculator.architecture.model import Model
    from calculator.architecture.task import Task
    from calculator.devices import Fit
    from calculator.estimation.device_replay import DeviceReplay
    from calculator.estimation.request import ModelReference, Request
    from calculator.inputs.training import Training
    from calculator.resident.tensor import ResidentTensor
    from calculator.training_step.peak import Peak
    from calculator.training_step.resident_state import ResidentState
    from calculator.training_step.step import TrainingStep


#: Why a request for a trace is refused in places where only the calculator answers.
ONE_ESTIMATE = (
    "a trace answers one estimate at a time, and takes seconds to minutes: request a single estimate, or set engine to"
    " auto or calculator"
)


@without_collections
def estimate(
    request: Request, series: SeriesCache | None = None, *, whole: bool = False, once: bool = False
) -> Estimate:
    """Answer a request.

    The options do not change the answer, only the time that it takes. `series` shares work with earlier requests. By
    default, these are recent requests of the same kind in this process. `whole` interprets every layer that the
    timeline shows at once, which is faster if the timeline is read and slower if it is not. `once` means that no other
    request of the kind is expected, which is faster for this request and slower for a second one.

    Raises:
        PlanError: if the model is not known, or if the real libraries refuse the combination.
    """
    if request.engine == "traced":
        raise refusal("engine", ONE_ESTIMATE, request.engine)
    if request.accounting == "textbook":
        return _by_the_textbook(request)
    if series is None:
        with RECENT_SERIES.borrow(request, once=once) as (shared_request, shared_series):
            return _exact(shared_request, shared_series, whole=whole)
    return _exact(request, series, whole=whole)


def _exact(request: Request, series: SeriesCache, *, whole: bool) -> Estimate:
    model = series.model_of(request.model, model_of)
    request = within_positions(with_longest_batch(request), model)
    reserved = reserved_by(request.reserved, request.device, request.drawn or request.training)
    request = request if request.reserved == reserved else replace(request, reserved=reserved)
    prepared = partial(series.prepared_model, model, request.method, request.training, request.device, request.stack)
    remarks = checked_by_sizes(request, model, series.remarks_on(request, model), prepared)
    step = training_step(request, series, whole=whole)
    resident = step.resident
    memory, verdict = _memory(request, step, series)
    return Estimate(
        model=model_summary(model),
        method=request.method,
        accounting=request.accounting,
        reserved=request.reserved,
        parameters=ParameterCounts.from_parts(*resident.parameters),
        memory=with_interval(memory, request, model, estimate),
        fit=verdict,
        stored=Deferred(partial(_stored, resident)),
        remarks=_with_remarks_of_figures(request, model, remarks, step, memory, verdict),
        communication=step.communication,
        grade="modelled as an interval" if resident.prepared.trainer.facts.is_interval else "modelled",
    )


def _stored(resident: ResidentState) -> StoredBytes:
    return StoredBytes(resident.saved_bytes, resident.base_bytes, resident.added_bytes)


def _with_remarks_of_figures(
    request: Request,
    model: Model,
    remarks: Callable[[], Remarks],
    step: TrainingStep,
    memory: Memory,
    verdict: Fit | None,
) -> Callable[[], Remarks]:
    """Return all remarks on an answer, from those that follow from its request alone.

    Those on the initialization are written now, because it may be refused.
    """
    initialization_warnings = initialization.warnings(step.resident, memory.peak_allocated_bytes)
    return Deferred(partial(_joined, request, model, remarks, step, verdict, initialization_warnings))


def _joined(
    request: Request,
    model: Model,
    remarks: Callable[[], Remarks],
    step: TrainingStep,
    verdict: Fit | None,
    initialization_warnings: tuple[str, ...],
) -> Remarks:
    assumptions, warnings = remarks()
    return Remarks(
        (
            *assumptions,
            *of_kernel(request, model, step.resident.prepared),
            *of_cuda(request, model, step),
            *verdict_assumptions(verdict),
            *rank_assumptions(step.flat),
        ),
        (
            *without_gradient(model, step.resident.tensors),
            *warnings,
            *initialization_warnings,
            *_gpu_caveats(request),
        ),
    )


def training_step(request: Request, series: SeriesCache | None = None, *, whole: bool = False) -> TrainingStep:
    """Return a request's training step on its device."""
    check_budget()
    series = series or SeriesCache()
    resident = resident_state(request, series)
    resident.prepared.recorded_passes.are_replayed = request.reserved == "replay"
    return series.step_of(resident, whole=whole)


def resident_state(request: Request, series: SeriesCache | None = None) -> ResidentState:
    """Return a request's resident tensors: its model with its method applied, its training and its device."""
    series = series or SeriesCache()
    model = series.model_of(request.model, model_of)
    return series.resident_state(model, request.method, request.training, request.device, request.stack)


def model_of(reference: ModelReference) -> Model:
    """Return the model of a request.

    Raises:
        PlanError: if the calculator does not model it, or the request has a parameter count only.
    """
    if reference.config is not None:
        return model_from_config(reference.config, task=reference.task)
    if reference.id is None:
        message = 'a bare parameter count is for full fine-tuning with "accounting": "textbook"; give an id or a config'
        raise refusal("model.parameters", message, reference.parameters)
    return _catalogued(reference.id, reference.task)


@lru_cache(maxsize=256)
def _catalogued(id: str, task: Task) -> Model:  # noqa: A002  the API's word
    """Return a model of the catalogue. It is cached, because models are never changed."""
    entry = catalogue.model(id)
    config = entry.config_for(images=task.has_images)
    if config["model_type"] not in FAMILIES:
        message = f"the calculator does not model {entry.model_type}, the type of {entry.id}, which an estimate traces"
        raise refusal("model", message, id)
    return model_from_config(config, id=entry.id, task=task)


def model_summary(model: Model) -> ModelSummary:
    """Return the model as an answer shows it."""
    return ModelSummary(id=model.id, model_type=model.model_type, parameters=model.parameters, task=model.task.name)


def parameter_counts(tensors: tuple[ResidentTensor, ...]) -> ParameterCounts:
    """Count parameters. A quantized parameter counts as one parameter, whatever its storage."""
    return ParameterCounts.from_parts(*parameters(tensors))


def device_replay(
    request: Request, step: TrainingStep, series: SeriesCache, peaks: Iterable[Peak] | None = None
) -> DeviceReplay:
    """Return a request's run for replays. `peaks` are those of its step."""
    forward, backward = workspaces(card_of(request.device), request.stack)
    live = max(peak.bytes for peak in peaks or step.deciding_peaks())
    replay = replay_of(
        Histories.from_training(_emptying(request)),
        step.resident,
        (forward, backward),
        live_bytes=live + forward + backward,
        context_bytes=cuda_context(card_of(request.device)).bytes,
        conf=parse_alloc_conf(request.device.alloc_conf or ""),
        cached=series.replays(_run_of(request, forward, backward)),
    )
    if not step.generates:
        return replay
    return GeneratingReplay.from_step(replay, partial(generation_bytes, step, (forward, backward)))


def _emptying(request: Request) -> Training:
    """Return the training that the run's history follows, with the steps in which a method empties the cache."""
    training = request.drawn or request.training
    if not request.method.empties_cache:
        return training
    return replace(training, torch_empty_cache_steps=1, empty_cache_at="after_step")


def _memory(request: Request, step: TrainingStep, series: SeriesCache) -> tuple[Memory, Fit | None]:
    figures = figures_of(step)
    replay = device_replay(request, step, series, figures.peaks) if request.reserved == "replay" else None
    memory, verdict = memory_and_fit(
        request,
        figures.parts,
        phases(step, figures.peaks),
        (figures.phase, figures.operation),
        replay.peak_reserved_bytes
        if replay
        else reserved_by_rule(step, workspaces(card_of(request.device), request.stack)),
        timeline(step, figures.peaks),
        replay,
        _colocated(request, step),
        lambda overheads: unsharded_bytes(request, step, figures.parts, overheads, training_step),
        request.stack,
    )
    prepared = step.resident.prepared
    host = step.resident.host_bytes or prepared.trainer.host_bytes(prepared) or step.offloaded
    return (memory if host is None else _with_host(memory, host, request)), verdict


def _with_host(memory: Memory, host: int, request: Request) -> Memory:
    """Return memory with the host memory of one GPU and of all GPUs of a node."""
    device = request.device
    return replace(memory, host_bytes=host, node_host_bytes=host * (device.count // device.nodes))


def _run_of(request: Request, forward: int, backward: int) -> Hashable:
    """Return everything in a request that determines a replay of its model."""
    kernels = kernels_of(request.device, request.stack, request.training.kernels)
    return (
        request.method,
        request.drawn or request.training,
        request.device.sharded_over if request.device.sharding in (*SHARDS, *STAGES) else request.device.sharding,
        request.stack,
        kernels,
        forward,
        backward,
    )


def _colocated(request: Request, step: TrainingStep) -> ColocatedEngine | None:
    """Return the engine that a trainer generates with if it is on the same GPU, else None."""
    engine, card = request.training.colocated, card_of(request.device)
    if engine is None:
        return None
    kept = between_steps(step.resident, workspaces(card, request.stack))
    return ColocatedEngine(engine=engine, kept_bytes=kept + cuda_context(card).bytes)


def _gpu_caveats(request: Request) -> tuple[str, ...]:
    card = card_of(request.device)
    return caveats(card) if card is not None else ()


def _by_the_textbook(request: Request) -> Estimate:
    """Return the estimate by the lesson's rules: counts times bytes."""
    check_device(request)
    if request.model.parameters is not None:
        summary, counts, quantized = _counts_without_model(request)
    else:
        model = model_of(request.model)
        tensors = resident_state(request).whole
        request.method.check(model, request.training)
        if request.method.quantizes_base and not request.method.facts.quantizes_base:
            message = f"the textbook rules do not cover the base of {request.method.title}: use exact"
            raise refusal("accounting", message, request.accounting)
        summary, counts = model_summary(model), parameter_counts(tensors)
        quantized = sum(s.parameters * s.count for s in tensors if s.packed)
    parts = textbook.accounting(
        base=counts.base, added=counts.added, trainable=counts.trainable, quantized=quantized
    ).components
    total = sum(part.bytes for part in parts)
    phase = Phase(name="optimizer_step", peak_bytes=total)
    memory, verdict = memory_and_fit(
        request, parts, Deferred(lambda: (phase,)), (phase.name, "everything counted once")
    )
    return Estimate(
        model=summary,
        method=request.method,
        accounting=request.accounting,
        reserved=request.reserved,
        parameters=counts,
        memory=memory,
        fit=verdict,
        stored=Deferred(partial(StoredBytes, textbook.WEIGHT_BYTES * counts.trainable)),
        remarks=partial(textbook.remarks, 1 if verdict is None else verdict.gpus_needed or 1),
        grade=None,
    )


def _counts_without_model(request: Request) -> tuple[ModelSummary, ParameterCounts, int]:
    parameters = request.model.parameters or 0
    if not request.method.facts.trains_base or request.method.trains_part:
        raise refusal(
            "model.parameters",
            f"{request.method.name} needs a model's shapes: give an id or a config; "
            "a bare count is for full fine-tuning",
            parameters,
        )
    counts = ParameterCounts(base=parameters, added=0, trainable=parameters, total=parameters)
    return ModelSummary(id=None, model_type=None, parameters=parameters), counts, 0
