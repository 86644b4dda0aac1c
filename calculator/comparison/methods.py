"""Comparisons of methods for one model, training and device, and of one plan on every GPU."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError, Problem, refusal
from calculator.devices import GPU, Fit, cuda_context, fit, gpus, workspaces
from calculator.devices.near_limit import is_near_limit
from calculator.devices.verdict import card_of
from calculator.estimation.estimate import estimate, model_of
from calculator.estimation.request import Choices, Request, parse_method, parse_request
from calculator.inputs.device import Device
from calculator.inputs.settings import declared
from calculator.inputs.training import Training
from calculator.inputs.unknown_fields import unknown_field
from calculator.methods import USUAL_METHODS, Method

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from calculator.devices.outcome import Outcome
    from calculator.estimation.answer import Estimate

#: The largest number of methods in one comparison.
MOST_METHODS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """The nearest accepted plan: its estimate, and the changed settings by path in the request."""

    changes: dict[str, Any]
    estimate: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRow:
    """The estimate of one method, or why it is refused and the nearest accepted plan."""

    method: Method
    estimate: Estimate | None
    problems: tuple[Problem, ...] = ()
    alternative: Alternative | None = None


def parse_comparison(body: Any) -> tuple[Request, ...]:
    """Parse a comparison from decoded JSON into one request per method.

    Raises:
        PlanError: with every problem, each at its dotted path.
    """
    if not isinstance(body, dict):
        raise refusal("", "the request must be an object", body)
    fields = ("model", "methods", "training", "device", "stack", *(field.name for field in declared(Choices)))
    problems = [Problem(loc=key, msg=unknown_field(key, fields), input=body[key]) for key in body if key not in fields]
    common = {key: value for key, value in body.items() if key in fields and key != "methods"}
    request: Request | None = None
    try:
        request = parse_request({**common, "method": {"name": USUAL_METHODS[0]}})
    except PlanError as error:
        problems += error.problems
    methods = _methods(body.get("methods", [{"name": name} for name in USUAL_METHODS]), problems)
    if problems or request is None:
        raise PlanError(*problems)
    return tuple(replace(request, method=method) for method in methods)


def compare(requests: Iterable[Request]) -> tuple[ComparisonRow, ...]:
    """Return one row for each request.

    Raises:
        PlanError: if all requests are refused.
    """
    requests = tuple(requests)
    rows = tuple(map(_row, requests))
    if all(row.estimate is None for row in rows):
        problems = {(problem.loc, problem.msg): problem for row in rows for problem in row.problems}
        raise PlanError(*problems.values())
    return tuple(map(_with_alternative, rows, requests))


def side_by_side(requests: Iterable[Request]) -> tuple[ComparisonRow, ...]:
    """Return one row for each request, even if all of them are refused."""
    return tuple(_with_alternative(_row(request), request) for request in requests)


def cards(plan: Estimate, attention: str = "sdpa", device: Device | None = None) -> tuple[Fit, ...]:
    """Return the verdict on every GPU that has the plan's kernels, smallest first.

    Each GPU has its own workspaces and context. Other GPUs have the number of GPUs and the sharding of `device`, or
    one GPU without it.
    """
    able = (card for card in gpus() if card.has_flash or attention != "flash_attention_2")
    return tuple(
        sorted((_fit_on(plan, _with_gpu(device, card)) for card in able), key=lambda answer: answer.usable_bytes)
    )


def _with_gpu(device: Device | None, card: GPU) -> Device:
    """Return a device with another GPU and the same number of GPUs."""
    return replace(device or Device(), gpu=card.id, memory_bytes=None)


def _fit_on(plan: Estimate, device: Device) -> Fit:
    """Return the verdict on a GPU. Near the limit, the run is replayed on it."""
    card = card_of(device)
    forward, backward = _workspaces(plan, card)
    ruled = _fit_with(plan, device, plan.memory.peak_reserved_bytes - plan.memory.library_workspace_bytes)
    if plan.memory.replay is None or not is_near_limit(ruled):
        return ruled
    replay = plan.memory.replay.with_workspaces((forward, backward))
    return _fit_with(plan, device, replay.peak_reserved_bytes - forward - backward, replay.outcome)


def _workspaces(plan: Estimate, card: GPU | None) -> tuple[int, int]:
    """Return the bytes of the workspaces on a GPU: those that threads keep, or what a product needs more than here."""
    if plan.memory.library_workspace_bytes:
        return workspaces(card)
    own = plan.fit.gpu if plan.fit is not None else None
    more = max(0, workspaces(card)[0] - workspaces(own)[0])
    return more, more


def _fit_with(plan: Estimate, device: Device, tensors: int, replayed: Callable[[int], Outcome] | None = None) -> Fit:
    """Return the verdict on a GPU, given the reserved bytes without workspaces."""
    memory, card = plan.memory, card_of(device)
    workspace = sum(_workspaces(plan, card))
    context = cuda_context(card).bytes
    reserved = tensors + workspace
    answer = fit(
        device,
        peak_allocated_bytes=memory.peak_allocated_bytes,
        library_workspace_bytes=workspace,
        peak_reserved_bytes=reserved,
        context_bytes=context,
        required_bytes=reserved + context,
        replayed=replayed,
        colocated=memory.colocated,
        unsharded=partial(memory.unsharded, workspace + context) if memory.unsharded else None,
    )
    assert answer is not None
    return answer


def _methods(listed: Any, problems: list[Problem]) -> tuple[Method, ...]:
    if not isinstance(listed, list) or not 0 < len(listed) <= MOST_METHODS:
        message = f"must be a list of 1 to {MOST_METHODS} method objects"
        problems.append(Problem(loc="methods", msg=message, input=listed))
        return ()
    methods = []
    for index, body in enumerate(listed):
        try:
            methods.append(parse_method(body, f"methods.{index}"))
        except PlanError as error:
            problems += error.problems
    return tuple(methods)


def _row(request: Request) -> ComparisonRow:
    try:
        return ComparisonRow(method=request.method, estimate=estimate(request))
    except PlanError as error:
        return ComparisonRow(method=request.method, estimate=None, problems=error.problems)


def _with_alternative(row: ComparisonRow, request: Request) -> ComparisonRow:
    return row if row.estimate is not None else replace(row, alternative=_alternative(request, row.problems))


def _alternative(request: Request, problems: tuple[Problem, ...]) -> Alternative | None:
    """Return the plan with as few changes to its refused settings as possible, or None."""
    refused = {problem.loc for problem in problems}
    try:
        near, changes = _nearest_targets(*_usual_training(request, refused), refused)
        return Alternative(changes=changes, estimate=estimate(near)) if changes else None
    except PlanError:
        return None


def _usual_training(request: Request, refused: set[str]) -> tuple[Request, dict[str, Any]]:
    """Return the request with refused training settings reset to their defaults, and the changes."""
    usual = Training()
    changes = {
        f.name: getattr(usual, f.name)
        for f in fields(Training)
        if f"training.{f.name}" in refused and getattr(request.training, f.name) != getattr(usual, f.name)
    }
    changed = {f"training.{name}": value for name, value in changes.items()}
    return replace(request, training=replace(request.training, **changes)), changed


def _nearest_targets(request: Request, changes: dict[str, Any], refused: set[str]) -> tuple[Request, dict[str, Any]]:
    """Return the request with refused target modules replaced by the nearest accepted ones, and the changes.

    Raises:
        PlanError: if the model is not known.
    """
    method: Any = request.method
    if "method.target_modules" not in refused:
        return request, changes
    targets = request.method.nearest_targets(model_of(request.model))
    if targets is None:
        return request, changes
    listed = list(targets) if isinstance(targets, tuple) else targets
    nearest = replace(request, method=replace(method, target_modules=targets))
    return nearest, {**changes, "method.target_modules": listed}
