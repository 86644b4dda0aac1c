"""The tools of the MCP server. Their schemas are those of the JSON API's requests and answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.api.answers.diagnose import DiagnoseAnswer, diagnose_answer
from app.api.answers.estimate import SingleEstimateAnswer
from app.api.answers.limits import LimitsAnswer, limits_answer
from app.api.answers.plan import PlanAnswer, plan_answer
from app.api.diagnose import diagnosed
from app.api.requests import DiagnoseRequest, EstimateRequest, LimitsRequest, PlanRequest
from app.cli import diagnose, estimate, limits, plan
from app.engines.engine import Client, answered
from calculator.estimation.request import parse_request
from calculator.limit_search.limits import limit, parse_limit
from calculator.planning.plan import plan as planned
from calculator.planning.request import parse_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pydantic import BaseModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolAnswer:
    """An answer: the text that the command prints, and what the API answers."""

    text: str
    answer: BaseModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One tool: what it does, and the models of its arguments and its answer."""

    title: str
    description: str
    request_model: type[BaseModel]
    answer_model: type[BaseModel]
    answer: Callable[[Any, Client], ToolAnswer]


def _estimate(body: Any, client: Client) -> ToolAnswer:
    request = parse_request(body)
    result = answered(request, client, whole=True)
    return _answer(estimate.lines(request.method.label, result), SingleEstimateAnswer.model_validate(result))


def _plan(body: Any, _: Client) -> ToolAnswer:
    result = planned(parse_plan(body))
    return _answer(plan.lines(result), plan_answer(result))


def _limits(body: Any, _: Client) -> ToolAnswer:
    result = limit(parse_limit(body))
    return _answer(limits.lines(result), limits_answer(result))


def _diagnose(body: Any, _: Client) -> ToolAnswer:
    result = diagnosed(body)
    return _answer(diagnose.lines(result), diagnose_answer(result.diagnosis, result.body, result.imported))


def _answer(lines: Iterable[str], answer: BaseModel) -> ToolAnswer:
    return ToolAnswer(text="\n".join(lines), answer=answer)


#: Every tool by its name, which is that of the endpoint.
TOOLS = {
    "estimate": Tool(
        title="Estimate the GPU memory of a fine-tuning run",
        description="Estimate the GPU memory of one fine-tuning run to the byte, and whether it fits the device. Only"
        " model and method are required; field names and defaults are those of transformers, PEFT and"
        " TrainingArguments.",
        request_model=EstimateRequest,
        answer_model=SingleEstimateAnswer,
        answer=_estimate,
    ),
    "plan": Tool(
        title="Find fine-tuning configurations that fit a GPU",
        description="Find complete configurations that fit each device and meet the needs, best first, with the"
        " reasons; if nothing fits, the closest one and what to change.",
        request_model=PlanRequest,
        answer_model=PlanAnswer,
        answer=_plan,
    ),
    "limits": Tool(
        title="Find the largest setting that fits a GPU",
        description="Find the largest rank, sequence length, micro-batch size, ... with which a run fits its device,"
        " or with solve_for count the fewest GPUs.",
        request_model=LimitsRequest,
        answer_model=LimitsAnswer,
        answer=_limits,
    ),
    "diagnose": Tool(
        title="Explain a CUDA out-of-memory error",
        description="Find the allocation that failed in a fine-tuning run, from the text of its out-of-memory error and"
        " the run's request or trainer file, and the single changes that end the error.",
        request_model=DiagnoseRequest,
        answer_model=DiagnoseAnswer,
        answer=_diagnose,
    ),
}
