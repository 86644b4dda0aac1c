"""A plan: for each model on each device, the configurations that fit, ranked, with reasons."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from calculator.common.errors import PlanError, Problem
from calculator.methods import METHODS, USUAL_METHODS
from calculator.planning.evaluator import Evaluator
from calculator.planning.label import label
from calculator.planning.nearest_miss import nearest_candidate, nearest_miss
from calculator.planning.needs import excluded_by_needs
from calculator.planning.proposals import RuledOut, proposals
from calculator.planning.ranking import BY_COST, ORDER
from calculator.planning.reasons.deployment import serving_reasons
from calculator.planning.reasons.quality import quality_reasons
from calculator.planning.reasons.rules import RULES
from calculator.planning.reasons.sharding import sharding_reasons
from calculator.planning.reasons.training import training_reasons
from calculator.planning.rejections import rejections
from calculator.planning.relaxations import relaxations
from calculator.planning.sharding_options import sharding_options
from calculator.planning.sharding_search import best_sharding, fewest_gpus
from calculator.planning.suggestions import suggestions
from calculator.planning.trainer_settings import SETTINGS
from calculator.speed.prices import hour_price

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.common.names import MethodName
    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import ModelReference, Request
    from calculator.inputs.device import Device
    from calculator.planning.nearest_miss import NearestMiss
    from calculator.planning.reasons.reason import Evaluation, Reason
    from calculator.planning.relaxations import Relaxation
    from calculator.planning.request import PlannedDevice, PlanRequest
    from calculator.planning.sharding_options import ShardingOption
    from calculator.planning.sharding_search import MethodResult
    from calculator.planning.suggestions import Suggestion
    from calculator.speed.step_cost import StepCost
    from calculator.speed.token_cost import TokenCost

#: The sentence on what the relative costs leave out.
COSTS = (
    "Costs weigh operations and bytes at the GPU's rated speeds, which no run reaches. The optimizer step, "
    "normalizations, data loading and float32 products are not counted."
)


#: The sentence on the choice of a sharding if a request for several GPUs names none.
CHOICE = (
    "A method's sharding is the one that ranks first; zero3, which divides what fsdp divides and sends more, is tried "
    "where no other fits, and listed for the first configuration's method. They are compared by the rule for reserved "
    "memory where one fits by it. With device.sharding, only that is tried."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A complete configuration with its estimate, its cost and the reasons."""

    request: Request
    estimate: Estimate
    cost: StepCost
    #: The price of a token. None if cost is no priority, or if no published run is comparable.
    token_cost: TokenCost | None
    #: The bytes that one task adds to the base. For full fine-tuning, they are a whole model.
    task_bytes: int
    reasons: tuple[Reason, ...]
    #: Single changes that free memory, if the configuration leaves little.
    roomier: tuple[Suggestion, ...]
    #: The smallest number of GPUs that it fits, among those that divide the batch and are not more than requested.
    fewest_gpus: int

    @property
    def label(self) -> str:
        """The configuration in words."""
        return label(self.request.method)


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlan:
    """The proposals for one model on one device, the best first; or the nearest miss, and what would make it fit."""

    #: The model's id, or its family.
    model: str
    parameters: int
    device: Device
    configurations: tuple[Configuration, ...]
    ruled_out: tuple[RuledOut, ...]
    miss: NearestMiss | None
    changes: tuple[Relaxation, ...]
    #: The first configuration's method under each sharding that the plan chose from. Empty if it had no choice.
    shardings: tuple[ShardingOption, ...]
    #: The number of estimates that were computed.
    estimates: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings that all configurations share."""
        first, *others = [configuration.estimate.warnings for configuration in self.configurations] or [()]
        return tuple(warning for warning in first if all(warning in other for other in others))

    def warnings_of(self, configuration: Configuration) -> tuple[str, ...]:
        """Return the warnings of a configuration that the others do not share."""
        return tuple(warning for warning in configuration.estimate.warnings if warning not in self.warnings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The answer to a plan request: a part for each model on each device, in the request's order."""

    plans: tuple[DevicePlan, ...]
    assumptions: tuple[str, ...]


def plan(request: PlanRequest) -> Plan:
    """Answer a plan request.

    Raises:
        PlanError: if a model is not known, the batch can't be divided, or every method is refused.
    """
    return answer_of(request, device_plans(request))


def device_plans(request: PlanRequest) -> Iterator[DevicePlan]:
    """Yield the parts of the answer to a plan request, each computed when it is read.

    Raises:
        PlanError: as `plan`, for the part that is read.
    """
    pairs = product(enumerate(request.models), enumerate(request.devices))
    return (_device_plan(request, model, device) for model, device in pairs)


def answer_of(request: PlanRequest, plans: Iterable[DevicePlan]) -> Plan:
    """Return the answer to a plan request, from its parts."""
    computed = tuple(plans)  # the plan itself refuses a device without a price
    chooses = any(len(device.options) > 1 for device in request.devices)
    return Plan(plans=computed, assumptions=(ORDER, COSTS, *((CHOICE,) if chooses else ()), *_prices(request)))


def _prices(request: PlanRequest) -> Iterator[str]:
    """Yield the price of each device, if cost is a priority."""
    if "cost" in request.needs.priorities:
        for device in request.devices:
            price = hour_price(device.requested)
            amount = f"{price.per_hour:g} {price.currency}".strip()
            yield f"{BY_COST} {amount} an hour: {price.origin}."


def _device_plan(
    request: PlanRequest, model: tuple[int, ModelReference], device: tuple[int, PlannedDevice]
) -> DevicePlan:
    places = {
        "model": "model" if len(request.models) == 1 else f"models.{model[0]}",
        "device": "device" if len(request.devices) == 1 else f"devices.{device[0]}",
        "training": "needs",
    }
    try:
        evaluators = tuple(
            Evaluator(
                model[1],
                option,
                request.needs,
                length_given=request.length_given,
                reserved=request.reserved,
                training=request.training,
                stack=request.stack,
            )
            for option in device[1].options
        )
        return _planned(device[1].requested, evaluators)
    except PlanError as error:
        raise PlanError(*(_with_request_path(problem, places) for problem in error.problems)) from error


def _with_request_path(problem: Problem, places: dict[str, str]) -> Problem:
    """Return an estimate's problem with its place in the plan request."""
    head, dot, rest = problem.loc.partition(".")
    if head == "training" and rest in SETTINGS:
        return problem
    if head == "training" and rest in ("micro_batch_size", "gradient_accumulation_steps"):
        msg = f"{rest} is {problem.input}: {problem.msg}"
        return Problem(loc="needs.effective_batch_size", msg=msg, input=problem.input)
    if head == "task":
        msg = "plan is for language models (task causal_lm): use another model, or estimate this one with its own task"
        return Problem(loc=places["model"], msg=msg, input=problem.input)
    return Problem(loc=f"{places.get(head, head)}{dot}{rest}", msg=problem.msg, input=problem.input)


def _planned(device: Device, evaluators: tuple[Evaluator, ...]) -> DevicePlan:
    """Return the plan of a model on a device.

    `evaluators` has one for each sharding that it chooses from.
    """
    first = evaluators[0]
    needs, model = first.needs, first.model
    problems = (*_batch_problems(first), *_base_problems(first))
    if problems:
        raise PlanError(*problems)
    if "cost" in needs.priorities:
        hour_price(device)
    excluded = {name: why for name in USUAL_METHODS if (why := excluded_by_needs(name, needs, model))}
    tried = {name: best_sharding(name, evaluators) for name in USUAL_METHODS if name not in excluded}
    _refused(tried)
    proposed, dominated = proposals(tried)
    near = None if proposed else nearest_candidate(tried.values())
    relaxed = () if proposed else relaxations(*(near[:2] if near else (first, None)))
    return DevicePlan(
        model=model.id or model.model_type,
        parameters=model.parameters,
        device=device,
        configurations=tuple(_configuration(evaluation) for evaluation in proposed),
        ruled_out=(
            *(RuledOut(method=name, rule=RULES[rule], sentence=why) for name, (rule, why) in excluded.items()),
            *dominated,
            *rejections(tried.values()),
        ),
        miss=nearest_miss(*near, relaxed) if near else None,
        changes=relaxed,
        shardings=tuple(sharding_options(tried[proposed[0].method.name], evaluators)) if proposed else (),
        estimates=sum(evaluator.estimates for evaluator in evaluators),
    )


def _batch_problems(evaluator: Evaluator) -> Iterator[Problem]:
    """Yield a batch that cannot be divided evenly over the GPUs."""
    batch, cards = evaluator.needs.effective_batch_size, evaluator.device.count
    if batch % cards:
        message = f"{batch:,} sequences do not divide equally among {cards:,} GPUs: use a multiple of {cards:,}"
        yield Problem(loc="needs.effective_batch_size", msg=message, input=batch)


def _base_problems(evaluator: Evaluator) -> Iterator[Problem]:
    """Yield needs that a quantized base refuses, or that are not modeled over it."""
    base, needs = evaluator.lora.base, evaluator.needs
    if base is None:
        return
    if needs.must_merge and not base.merges:
        message = f"PEFT merges no LoRA into a base in {base.label}: use false, or a model without quantization_config"
        yield Problem(loc="needs.must_merge", msg=message, input=True)
    if needs.switches:
        message = f"serving a base in {base.label} is not modeled: use false, or a model without quantization_config"
        yield Problem(loc="needs.switch_per_request", msg=message, input=True)


def _refused(tried: dict[MethodName, MethodResult]) -> None:
    """Raise the problems if every method is refused.

    Problems at places that all methods share come first.
    """
    if not tried or not all(example.result.problems for example in tried.values()):
        return
    first, *others = [example.result.problems for example in tried.values()]
    shared = {problem.loc for problem in first}.intersection(*({p.loc for p in problems} for problems in others))
    named = [(example, problem) for example in tried.values() for problem in example.result.problems]
    alike = [(example, problem) for example, problem in named[: len(first)] if problem.loc in shared]
    every = {(problem.loc, problem.msg): (example, problem) for example, problem in named}
    raise PlanError(*(_at_model(example, problem) for example, problem in alike or every.values()))


def _at_model(tried: MethodResult, problem: Problem) -> Problem:
    """Return a method's problem, placed at the model, because a plan request has no method."""
    if not problem.loc.startswith("method"):
        return problem
    message, model = f"{METHODS[tried.name].facts.label} is refused: {problem.msg}", tried.evaluator.model
    return Problem(loc="model", msg=message, input=model.id or model.model_type)


def _configuration(evaluation: Evaluation) -> Configuration:
    evaluator, candidate = evaluation.evaluator, evaluation.candidate
    request = evaluator.request(candidate)
    fewest = fewest_gpus(evaluator, candidate)
    return Configuration(
        request=request,
        estimate=evaluation.answer,
        cost=evaluation.cost,
        token_cost=evaluation.token_cost,
        task_bytes=evaluation.task_bytes,
        reasons=(
            *serving_reasons(evaluation),
            *quality_reasons(evaluation),
            *training_reasons(evaluation),
            *sharding_reasons(evaluation, fewest),
        ),
        roomier=suggestions(request, evaluation.answer) if evaluator.is_close(candidate) else (),
        fewest_gpus=fewest,
    )
