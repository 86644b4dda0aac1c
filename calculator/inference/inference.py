"""The computation behind the inference endpoint: from a request to its answer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.allocator.alloc_conf import parse_alloc_conf
from calculator.allocator.reserved_rule import fragmentation, inference_bytes
from calculator.common.errors import PlanError, Problem
from calculator.devices import caveats, cuda_context, fit, library_workspace, workspaces
from calculator.devices.verdict import card_of
from calculator.estimation import compatibility, positions, several_gpus
from calculator.estimation.cuda_remarks import passes_remarks as of_cuda
from calculator.estimation.estimate import model_of, model_summary
from calculator.estimation.ledger import components
from calculator.estimation.memory_and_fit import overhead_row
from calculator.estimation.request import Request
from calculator.families import forward_of, has_no_length
from calculator.inference.answer import Inference, PassPeak, Resident, ServingMemory
from calculator.inference.costs import Costs
from calculator.inference.merging import merging
from calculator.inference.passes import peaks, state
from calculator.inference.remarks import assumptions, warnings
from calculator.inference.served_method import ServedMethod, served
from calculator.inference.serving_replay import ServingReplay
from calculator.layers.masks import attention_types
from calculator.methods.prepared_model import PreparedModel
from calculator.stack import verified
from calculator.training_step.resident_state import ResidentState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.devices import Fit
    from calculator.inference.answer import Merge
    from calculator.inference.passes import Peak
    from calculator.inference.request import InferenceRequest
    from calculator.inputs.device import Device
    from calculator.inputs.stack import StackVersions


def inference(request: InferenceRequest) -> Inference:
    """Answer a request.

    Raises:
        PlanError: if the model is not known, or the real libraries refuse the combination.
    """
    model = _served_model(request)
    request = _within_positions(request, model)
    serving = request.serving
    plan = served(request.method, serving)
    _check(request, model, plan)
    card = card_of(request.device)
    resident = ResidentState(PreparedModel(model, plan, serving.training, request.device.on_one_gpu, request.stack))
    passes = peaks(resident, plan, serving)
    replay = _replay(request, plan, resident, passes) if request.reserved == "replay" else None
    reason = replay.refusal if replay else None
    if reason:
        replay = None
    memory, verdict = _memory(request.device, request.stack, passes, replay)
    merge = _merge(resident, plan)
    usable = verdict.usable_bytes if verdict is not None else None
    return Inference(
        model=model_summary(model),
        method=request.method,
        serving=serving,
        parameters=_resident(resident, plan, request),
        memory=memory,
        costs=Costs(resident, serving, passes[0].ran.cache).all(),
        merge=merge,
        fit=verdict,
        reserved="rule" if replay is None else "replay",
        reserved_reason=reason,
        assumptions=(
            *assumptions(request, model, plan, verdict, replayed=replay is not None, reason=reason),
            *of_cuda(request.device, (peak.ran.recording.storages for peak in passes)),
        ),
        warnings=warnings(request, model, plan, merge, usable, passes[0].ran.cache)
        + (caveats(card) if card is not None else ()),
    )


def _merge(resident: ResidentState, plan: ServedMethod) -> Merge | None:
    """Return the memory for merging, which starts from the unmerged model. Return None if nothing is merged."""
    if not plan.merged:
        return None
    merged, unmerged = resident.prepared, replace(plan, merged=False)
    prepared = PreparedModel(merged.model, unmerged, merged.training, merged.device, merged.stack)
    return merging(ResidentState(prepared), plan)


def _resident(resident: ResidentState, plan: ServedMethod, request: InferenceRequest) -> Resident:
    every = state(resident, plan, request.serving)
    one = state(resident, plan, request.serving.one_task)
    return Resident(
        base=resident.prepared.model.parameters,
        added_per_task=sum(tensor.parameters * tensor.count for tensor in one if not tensor.base),
        total=sum(tensor.parameters * tensor.count for tensor in every),
    )


def _replay(
    request: InferenceRequest, plan: ServedMethod, resident: ResidentState, peaks: tuple[Peak, ...]
) -> ServingReplay:
    """Return the answer for replays."""
    card, serving = card_of(request.device), request.serving
    workspace = workspaces(card, request.stack)[0]
    return ServingReplay(
        resident,
        state(resident, plan, serving),
        workspace,
        tokens=serving.max_new_tokens,
        live_bytes=max(peak.bytes for peak in peaks) + workspace,
        context_bytes=cuda_context(card).bytes,
        conf=parse_alloc_conf(request.device.alloc_conf or ""),
    )


def _memory(
    device: Device, stack: StackVersions, peaks: tuple[Peak, ...], replay: ServingReplay | None
) -> tuple[ServingMemory, Fit | None]:
    """Return the memory that the peak needs on a GPU, and the verdict."""
    card = card_of(device)
    listed, context = library_workspace(card, stack)[:1], cuda_context(card)
    workspace = workspaces(card, stack)[0]
    highest = max(peaks, key=lambda peak: peak.bytes)
    if replay is not None:
        reserved = replay.peak_reserved_bytes
    else:
        reserved = inference_bytes(highest.resident_tensors, [peak.ran.recording for peak in peaks], workspace)
    slack = fragmentation(reserved, highest.bytes + workspace)
    memory = ServingMemory(
        components=components(highest.alive),
        passes=tuple(PassPeak(name=peak.name, peak_bytes=peak.bytes, operation=peak.operation) for peak in peaks),
        peak_pass=highest.name,
        peak_operation=highest.operation,
        peak_allocated_bytes=highest.bytes,
        library_workspace_bytes=workspace,
        peak_reserved_bytes=reserved,
        required_bytes=reserved + context.bytes,
        overheads=tuple(overhead_row(part) for part in (*listed, slack, context)),
    )
    verdict = fit(
        device,
        peak_allocated_bytes=memory.peak_allocated_bytes,
        library_workspace_bytes=workspace,
        peak_reserved_bytes=reserved,
        context_bytes=context.bytes,
        required_bytes=memory.required_bytes,
        replayed=replay.outcome if replay else None,
    )
    return memory, verdict


def _served_model(request: InferenceRequest) -> Model:
    """Return the model of a request.

    Raises:
        PlanError: if it is not known, or no language model.
    """
    model = model_of(request.model)
    try:
        forward_of(model)
    except PlanError as error:
        raise PlanError(*map(_at_serving, error.problems)) from error
    return model


def _check(request: InferenceRequest, model: Model, plan: ServedMethod) -> None:
    """Refuse what can't be served.

    Raises:
        PlanError: with every reason.
    """
    serving = request.serving
    problems = [
        *_serving_problems(request, model, plan),
        *_routed(request, model),
        *several_gpus.single_gpu_problems(request.device),
    ]
    device = request.device.on_one_gpu
    trained = Request(
        model=request.model, method=plan.method, training=serving.training, device=device, stack=request.stack
    )
    try:
        compatibility.check(trained, model)
    except PlanError as error:
        problems += [_at_serving(problem) for problem in error.problems]
    problems += _positions(request, model)
    tokens = serving.context_length + serving.max_new_tokens
    window = _window(request, model)
    problems += verified.passes_problems(request.stack, model.model_type, plan.method.name, tokens, window=window)
    if problems:
        raise PlanError(*problems)


def _serving_problems(request: InferenceRequest, model: Model, plan: ServedMethod) -> Iterator[Problem]:
    """Yield combinations of the method and `serving` that are refused."""
    serving, facts = request.serving, request.method.facts
    if has_no_length(model):
        message = "no layer attends, and transformers finds no length of the cache: use another model"
        yield Problem(loc="model", msg=message, input=model.id)
    if serving.merged and not facts.mergeable:
        why = "has nothing to merge" if facts.mergeable is None else "can't be merged into the weights"
        yield Problem(loc="serving.merged", msg=f"{facts.label} {why}: use false", input=True)
    if request.method.quantizes_base and not facts.quantizes_base and serving.storage == "as_trained":
        message = f"inference over the base of {request.method.title} is not modeled: use dtype, or nf4"
        yield Problem(loc="serving.storage", msg=message, input=serving.storage)
    reason = request.method.refuses_4_bits(model) if plan.quantization is not None else None
    if reason:
        yield Problem(loc="serving.storage", msg=f"{reason}: use dtype", input=serving.storage)
    unmerged, merging = request.method.for_model(model).refuses_unmerged, request.method.refuses_merging
    if serving.merged and merging:
        yield Problem(loc="serving.merged", msg=f"{merging}: leave them out", input=True)
    if unmerged and not serving.merged:
        mergeable = request.method.facts.mergeable and not merging
        way_out = "use true" if mergeable else "it cannot be merged, so use another method"
        yield Problem(loc="serving.merged", msg=f"{unmerged}: {way_out}", input=False)
    if serving.tasks > 1 and plan.method.trains_biases and not serving.merged:
        message = "PEFT loads only one adapter where biases are trained: set bias to none, or merge each task's model"
        yield Problem(loc="serving.tasks", msg=message, input=serving.tasks)


def _routed(request: InferenceRequest, model: Model) -> Iterator[Problem]:
    """Yield padding with the routers' loss.

    Each pass would compute it from all tokens' mask and its own tokens' logits.
    """
    if request.serving.padding and request.serving.max_new_tokens > 1 and model.adds_router_loss:
        yield Problem(
            loc="serving.padding",
            msg=f"output_router_logits of {model.model_type} fails on a padded cache: switch it off, or use false",
            input=True,
        )


def _within_positions(request: InferenceRequest, model: Model) -> InferenceRequest:
    """Return the request. If it names no context length, the default is cut to the model's positions."""
    most = positions.most_positions(model)
    if request.length_given or most is None:
        return request
    room = max(2, most - request.method.virtual_tokens - request.serving.max_new_tokens + 1)
    length = min(request.serving.context_length, room)
    return replace(request, serving=replace(request.serving, context_length=length))


def _window(request: InferenceRequest, model: Model) -> int | None:
    """Return the window of sliding layers.

    Return None without such layers, or if no mask is a tensor.
    """
    slides = "sliding_attention" in attention_types(model.decoder.layers)
    return model.config.get("sliding_window") if slides and request.serving.attention != "flash_attention_2" else None


def _positions(request: InferenceRequest, model: Model) -> Iterator[Problem]:
    """Yield generated tokens beyond the table of learned positions."""
    most, serving = positions.most_positions(model), request.serving
    virtual = request.method.virtual_tokens
    needed = serving.context_length + virtual + serving.max_new_tokens - 1
    if most is not None and serving.context_length + virtual <= most < needed:
        yield Problem(
            loc="serving.max_new_tokens",
            msg=f"{needed:,} positions are needed with the prompt; the model has only {most:,}",
            input=serving.max_new_tokens,
        )


#: Training settings that have another name in `serving`.
_SERVING_NAMES = {"sequence_length": "context_length", "micro_batch_size": "batch_size"}


def _at_serving(problem: Problem) -> Problem:
    """Return a problem of a training setting, with the setting's place in this request."""
    part, _, name = problem.loc.partition(".")
    if part == "task":
        message = "inference is modeled for language models (task causal_lm): use another model"
        return Problem(loc="model", msg=message, input=problem.input)
    if part != "training":
        return problem
    return Problem(loc=f"serving.{_SERVING_NAMES.get(name, name)}", msg=problem.msg, input=problem.input)
