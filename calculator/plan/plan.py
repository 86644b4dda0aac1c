"""A plan: for each model on each device the configurations that fit, ranked, with the reasons."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from calculator.common.errors import PlanError, Problem
from calculator.methods import METHODS
from calculator.plan.evaluator import Evaluator
from calculator.plan.label import label
from calculator.plan.method_search import SearchResult, search
from calculator.plan.nearest_miss import missed, nearest
from calculator.plan.needs import excluded_by_needs
from calculator.plan.proposals import RuledOut, proposals
from calculator.plan.ranking import ORDER
from calculator.plan.reasons.deployment import served
from calculator.plan.reasons.quality import quality
from calculator.plan.reasons.rules import RULES
from calculator.plan.reasons.training import trained
from calculator.plan.rejections import rejections
from calculator.plan.relaxations import changes
from calculator.plan.suggestions import suggestions

if TYPE_CHECKING:
    from calculator.common.names import MethodName
    from calculator.estimate.answer import Estimate
    from calculator.estimate.request import ModelReference, Request
    from calculator.inputs.training import Device
    from calculator.plan.nearest_miss import NearestMiss
    from calculator.plan.reasons.reason import Judged, Reason
    from calculator.plan.reasons.step_cost import StepCost
    from calculator.plan.relaxations import Change
    from calculator.plan.request import PlanRequest
    from calculator.plan.suggestions import Suggestion

#: What the relative costs leave out.
COSTS = (
    "Costs weigh operations and bytes at the card's rated speeds, which no run reaches; what the optimizer's own step, "
    "normalisations, data loading and float32 products take beside is left out."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A complete configuration: the request of its estimate, the estimate, its cost, and the reasons.

    `task_bytes` are what one task adds beside the base; of full fine-tuning, a model. `roomier` are single changes that
    leave more of the card, where this leaves little.
    """

    request: Request
    estimate: Estimate
    cost: StepCost
    task_bytes: int
    reasons: tuple[Reason, ...]
    roomier: tuple[Suggestion, ...]

    @property
    def label(self) -> str:
        """The configuration in words."""
        return label(self.request.method)


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlan:
    """What is proposed for one model on one device, best first; or how nearly it is missed, and what would change that.

    `model` is the model's id or family, `parameters` its size, `estimates` how many were made.
    """

    model: str
    parameters: int
    device: Device
    configurations: tuple[Configuration, ...]
    ruled_out: tuple[RuledOut, ...]
    miss: NearestMiss | None
    changes: tuple[Change, ...]
    estimates: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """What every configuration's estimate warns of."""
        first, *others = [each.estimate.warnings for each in self.configurations] or [()]
        return tuple(told for told in first if all(told in other for other in others))

    def warnings_of(self, configuration: Configuration) -> tuple[str, ...]:
        """What a configuration's estimate warns of beside that."""
        return tuple(told for told in configuration.estimate.warnings if told not in self.warnings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The answer to a plan's request: a part for each model on each device, in the order asked for."""

    plans: tuple[DevicePlan, ...]
    assumptions: tuple[str, ...]


def plan(request: PlanRequest) -> Plan:
    """Answer a plan's request.

    Raises:
        PlanError: where a model is not known, the batch can't be divided, or every method is refused.
    """
    pairs = product(enumerate(request.models), enumerate(request.devices))
    parts = tuple(_part(request, model, device) for model, device in pairs)
    return Plan(plans=parts, assumptions=(ORDER, COSTS))


def _part(request: PlanRequest, model: tuple[int, ModelReference], device: tuple[int, Device]) -> DevicePlan:
    places = {
        "model": "model" if len(request.models) == 1 else f"models.{model[0]}",
        "device": "device" if len(request.devices) == 1 else f"devices.{device[0]}",
        "training": "needs",
    }
    try:
        evaluator = Evaluator(model[1], device[1], request.needs, length_given=request.length_given)
        return _planned(evaluator)
    except PlanError as error:
        raise PlanError(*(_placed(problem, places) for problem in error.problems)) from error


def _placed(problem: Problem, places: dict[str, str]) -> Problem:
    """A problem of an estimate at its place in the plan's request."""
    head, dot, rest = problem.loc.partition(".")
    return Problem(loc=f"{places.get(head, head)}{dot}{rest}", msg=problem.msg, input=problem.input)


def _planned(evaluator: Evaluator) -> DevicePlan:
    needs = evaluator.needs
    out = {name: told for name in METHODS if (told := excluded_by_needs(name, needs, evaluator.model))}
    tried = {name: search(name, evaluator) for name in METHODS if name not in out}
    _refused(tried, evaluator)
    proposed, dominated = proposals(tried, evaluator)
    near = None if proposed else nearest(evaluator, (each.smallest for each in tried.values() if each.smallest))
    would = () if proposed else changes(evaluator, near[0] if near else None)
    return DevicePlan(
        model=evaluator.model.id or evaluator.model.model_type,
        parameters=evaluator.model.parameters,
        device=evaluator.device,
        configurations=tuple(_configuration(judged) for judged in proposed),
        ruled_out=(
            *(RuledOut(method=name, rule=RULES[rule], sentence=told) for name, (rule, told) in out.items()),
            *dominated,
            *rejections(tried, evaluator),
        ),
        miss=missed(evaluator, *near, would) if near else None,
        changes=would,
        estimates=evaluator.made,
    )


def _refused(tried: dict[MethodName, SearchResult], evaluator: Evaluator) -> None:
    """Raise what every method is refused for: at the places that all of them share, if there are any."""
    if not tried or not all(each.problems for each in tried.values()):
        return
    first, *others = [each.problems for each in tried.values()]
    shared = {problem.loc for problem in first}.intersection(*({p.loc for p in problems} for problems in others))
    told = [(name, problem) for name, each in tried.items() for problem in each.problems]
    alike = [(name, problem) for name, problem in told[: len(first)] if problem.loc in shared]
    every = {(problem.loc, problem.msg): (name, problem) for name, problem in told}
    raise PlanError(*(_of_the_model(name, problem, evaluator) for name, problem in alike or every.values()))


def _of_the_model(name: MethodName, problem: Problem, evaluator: Evaluator) -> Problem:
    """What a method is refused for, at the model: a plan's request has no method that it could stand at."""
    if not problem.loc.startswith("method"):
        return problem
    message = f"{METHODS[name].facts.label} is refused: {problem.msg}"
    return Problem(loc="model", msg=message, input=evaluator.model.id or evaluator.model.model_type)


def _configuration(judged: Judged) -> Configuration:
    request = judged.evaluator.request(judged.candidate)
    return Configuration(
        request=request,
        estimate=judged.answer,
        cost=judged.cost,
        task_bytes=judged.task_bytes,
        reasons=(*served(judged), *quality(judged), *trained(judged)),
        roomier=suggestions(request, judged.answer) if judged.evaluator.is_close(judged.candidate) else (),
    )
