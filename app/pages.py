"""The pages, and the JSON twins of the plan's page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.requests import Request

from app import plan, verdict
from app.api import compare_answer, estimate_answer, json
from app.bodies import body
from app.charts import methods_figure
from app.form import LONGEST_ADDRESS, Form, read
from app.problems import Refusal
from app.templates import page
from calculator import catalogue
from calculator.comparison import compare, parse_comparison
from calculator.errors import PlanError, Problem, refusal
from calculator.estimate import estimate
from calculator.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Sequence

router = APIRouter(include_in_schema=False)


@router.get("/")
async def get_plan(request: Request) -> Response:
    """The plan that the address asks for."""
    return plan_page(read(request.query_params.multi_items()))


@router.post("/")
async def post_plan(request: Request) -> Response:
    """The same by a form too long for an address; where it is not, lead to the address."""
    form = read(parse_qsl((await body(request)).decode("utf-8", "replace"), keep_blank_values=True))
    address = f"/{form.address()}"
    return RedirectResponse(address, 303) if len(address) <= LONGEST_ADDRESS else plan_page(form)


@router.get("/estimate.json")
async def get_estimate(request: Request) -> Response:
    """The page's twin: what POST /api/v1/estimate answers to the plan in the address."""
    return json(estimate_answer(estimate(parse_request(_strict(request).estimate()))))


@router.get("/compare.json")
async def get_compare(request: Request) -> Response:
    """The twin of the page's comparison: what POST /api/v1/compare answers to the plan in the address."""
    return json(compare_answer(compare(parse_comparison(_strict(request).comparison()))))


@router.get("/docs")
async def get_docs(request: Request) -> Response:
    """The API's documentation, from its OpenAPI document."""
    return page("docs.html", told=request.app.openapi(), title="API")


def plan_page(form: Form) -> Response:
    """The page of a plan: with its answer, or with what is wrong beside everything typed."""
    try:
        planned = plan.planned(form)
        if planned.chosen.estimate is None:
            return _refused(form, planned.chosen.problems, planned)
        return _answered(planned)
    except PlanError as error:
        return _refused(form, error.problems, None)


def error_page(status: int, title: str, detail: str) -> Response:
    """A page that says what went wrong."""
    return page("error.html", status, title=title, detail=detail)


def _answered(planned: plan.Plan) -> Response:
    chosen = planned.chosen.estimate
    assert chosen is not None
    return page(
        "plan.html",
        **_form(planned.form, {}),
        plan=planned,
        estimate=chosen,
        words=verdict,
        gauge=verdict.gauge(chosen),
        figure=methods_figure(planned.estimates, chosen.fit),
        shelves=plan.shelves(chosen),
        request=planned.form.estimate(),
        problems=(),
        title=_title(planned),
    )


def _refused(form: Form, problems: Sequence[Problem], planned: plan.Plan | None) -> Response:
    told = plan.messages(problems)
    return page(
        "plan.html", 422, **_form(form, told), plan=planned, estimate=None, problems=told, title="The plan has no answer"
    )


def _form(form: Form, errors: dict[str, str]) -> dict[str, Any]:
    address = f"/{form.address()}"
    return {
        "form": form,
        "errors": errors,
        "groups": plan.groups(),
        "gpu_choices": plan.gpu_choices(),
        "models": catalogue.models(),
        "address": address,
        "shareable": len(address) <= LONGEST_ADDRESS,
    }


def _title(planned: plan.Plan) -> str:
    chosen = planned.chosen.estimate
    assert chosen is not None
    told = f"{planned.chosen.axes.label} on {planned.model_name}"
    return f"{verdict.WORDS[chosen.fit.verdict]}: {told}" if chosen.fit else told


def _strict(request: Request) -> Form:
    form = read(request.query_params.multi_items())
    if form.unknown:
        raise refusal(form.unknown[0], "unknown parameter; the plan page's inputs are known", None)
    return form
