"""The pages, and the JSON twins of the plan's page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.requests import Request

from app.api import compare, estimate
from app.api.accuracy.accuracy import accuracy
from app.api.accuracy.residuals import STATISTICS
from app.api.answers.measurements import validation
from app.api.responses import json
from app.forms.plan_form import FILE, LONGEST_ADDRESS, LONGEST_REPEATED, Form, read
from app.http.body_params import FormFields
from app.http.problems import MEANINGS
from app.interop.downloads import downloads
from app.interop.imports import Imported
from app.pages.docs import view as docs_view
from app.pages.estimate import view
from app.pages.inference import view as inference_view
from app.pages.plan import view as plan_view
from app.pages.validation import view as validation_view
from app.presentation import verdict
from app.presentation.charts import methods_figure, timeline_figure
from app.presentation.templates import page
from calculator import catalogue
from calculator.allocator.reserved_rule import RULE_ACCURACY
from calculator.common.errors import PlanError, refusal
from calculator.estimate.answer import Estimate
from calculator.estimate.request import parse_request
from calculator.methods import METHODS

router = APIRouter(include_in_schema=False)


@router.get("/")
def get_plan(request: Request) -> Response:
    """The plan that the address asks for."""
    return plan_page(read(request.query_params.multi_items()), str(request.base_url))


@router.post("/")
def post_plan(request: Request, typed: FormFields) -> Response:
    """The same by a form too long for an address; where it is not, lead to the address."""
    form = read(typed)
    address = f"/{form.address()}"
    return RedirectResponse(address, 303) if len(address) <= LONGEST_ADDRESS else plan_page(form, str(request.base_url))


@router.get("/estimate.json")
def get_estimate(request: Request) -> Response:
    """The page's twin: what POST /api/v1/estimate answers to the plan in the address."""
    return json(estimate.answered(strict(request).estimate()))


@router.get("/compare.json")
def get_compare(request: Request) -> Response:
    """The twin of the page's comparison: what POST /api/v1/compare answers to the plan in the address."""
    return json(compare.answered(strict(request).comparison()))


@router.get("/docs")
def get_docs(request: Request) -> Response:
    """The API's documentation, from its OpenAPI document."""
    document = request.app.openapi()
    return page(
        "docs/page.html",
        description=document["info"]["description"],
        meanings=MEANINGS,
        operations=docs_view.operations(document, str(request.base_url).rstrip("/")),
        problem=docs_view.problem(document),
        title="The JSON API",
    )


@router.get("/validation")
def get_validation() -> Response:
    """How far estimates were from measurements."""
    answer = validation()
    return page(
        "validation/page.html",
        rule_accuracy=RULE_ACCURACY,
        **validation_view.shown(answer.published),
        measured=[{"answer": device, "steps": validation_view.steps(device)} for device in answer.measured],
        remark=answer.remark,
        statistics=STATISTICS,
        title="How far estimates were from measurements",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportBox:
    """The page's box for other tools' files: the file that the plan comes from, or one that can't be read, and why."""

    imported: Imported | None = None
    content: str = ""
    wrong: str = ""


def plan_page(form: Form, origin: str, box: ImportBox | None = None) -> Response:
    """The page of a plan: with its answer, or with what is wrong beside everything typed."""
    box = box or ImportBox()
    context: dict[str, Any] = {
        "form": form,
        "origin": origin.rstrip("/"),
        "import_box": box,
        **_lengths(form),
        **_always(),
    }
    if box.wrong:
        return _refused(context, {FILE: box.wrong}, None, "This file can't be planned")
    try:
        planned = view.planned(form)
    except PlanError as error:
        return _refused(context, view.messages(form, error.problems), None)
    if planned.chosen.estimate is None:
        return _refused(context, view.messages(form, planned.chosen.problems), planned)
    return _answered(context, planned, planned.chosen.estimate)


def error_page(status: int, title: str, detail: str) -> Response:
    """A page that says what went wrong."""
    return page("error.html", status, title=title, detail=detail)


def _lengths(form: Form) -> dict[str, bool]:
    """Whether the plan's address is short enough to be handed out, and to stand in every link that changes it."""
    length = len(f"/{form.address()}")
    return {"linked": length <= LONGEST_REPEATED, "shareable": length <= LONGEST_ADDRESS}


def _always() -> dict[str, Any]:
    return {
        "accuracy": accuracy,
        "changed": view.changed,
        "gpu_choices": view.gpu_choices(),
        "groups": view.groups(),
        "labels": {**view.labels(), FILE: "The file"},
        "methods": {name: cls.facts for name, cls in METHODS.items()},
        "models": catalogue.models(),
        "verdict_text": verdict,
    }


def _answered(context: dict[str, Any], planned: view.Plan, chosen: Estimate) -> Response:
    address = f"/{planned.form.address()}"
    body = planned.form.estimate()
    asked = parse_request(body)
    groups = view.card_groups(chosen, asked.training.attention)
    return page(
        "estimate/page.html",
        **context,
        address=address,
        downloads=downloads(asked, chosen),
        errors={},
        estimate=chosen,
        figure=methods_figure(planned.estimates, chosen.fit),
        gauge=verdict.gauge(chosen),
        gpu=view.card_id(planned.form.typed["gpu"]),
        needs_address=plan_view.address_of(planned.form, asked),
        plan=planned,
        problems={},
        request=body,
        serving_address=inference_view.address_of(planned.form),
        attention=asked.training.attention,
        nearest=view.nearest_sizes(groups),
        card_groups=groups,
        suggested=view.suggested(planned.form, asked, chosen),
        timeline=timeline_figure(chosen.memory),
        title=_title(planned, chosen),
    )


def _refused(
    context: dict[str, Any], wrong: Mapping[str, str], planned: view.Plan | None, title: str = "This plan has no answer"
) -> Response:
    form: Form = context["form"]
    return page(
        "estimate/page.html",
        422,
        **context,
        address=f"/{form.address()}",
        errors=wrong,
        estimate=None,
        figure=None,
        gpu=view.card_id(form.typed["gpu"]),
        plan=planned,
        problems=wrong,
        title=title,
    )


def _title(planned: view.Plan, chosen: Estimate) -> str:
    subject = f"{planned.chosen.method.facts.label} on {planned.model_name}"
    return f"{verdict.WORDS[chosen.fit.verdict]}: {subject}" if chosen.fit else subject


def strict(request: Request) -> Form:
    """The form in a twin's address.

    Raises:
        PlanError: where the address has a name that no input has.
    """
    form = read(request.query_params.multi_items())
    if form.unknown:
        raise refusal(form.unknown[0], "unknown parameter; the plan page's inputs are known", None)
    return form
