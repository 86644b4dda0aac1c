"""`/plan`, and its JSON version `/plan.json`."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.requests import Request

from app.api import plan
from app.api.responses import json_response
from app.forms.fields import MEMORY, NEEDS, RESERVED, STACK, TRAINER
from app.forms.layout import gpu_choices
from app.forms.plan_form import LONGEST_ADDRESS
from app.http.body_params import FormFields
from app.pages.plan import form as needs_form
from app.pages.plan.form import LABELS, NeedsForm, read
from app.presentation import plan_text
from app.presentation.changes import changes_text
from app.presentation.templates import page
from calculator import catalogue
from calculator.common.errors import PlanError, refusal
from calculator.planning.needs import USUAL_PRIORITIES
from calculator.planning.plan import plan as answer_to
from calculator.planning.request import parse_plan

router = APIRouter(include_in_schema=False)


@router.get("/plan")
def get_plan(request: Request) -> Response:
    """Show the configurations that fit and meet the needs of the address."""
    return plan_page(read(request.query_params.multi_items()))


@router.post("/plan")
def post_plan(fields: FormFields) -> Response:
    """Redirect to the address of a submitted form, or show its answer if the address is too long."""
    form = read(fields)
    address = f"/plan{form.address()}"
    return RedirectResponse(address, 303) if len(address) <= LONGEST_ADDRESS else plan_page(form)


@router.get("/plan.json")
def get_plan_json(request: Request) -> Response:
    """Return the page as JSON: what POST /api/v1/plan answers to the needs of the address."""
    form = read(request.query_params.multi_items())
    if form.unknown:
        raise refusal(form.unknown[0], "unknown parameter; the fields of the page are known", None)
    return json_response(plan.answer(form.body()))


def plan_page(form: NeedsForm) -> Response:
    """Return the page of a form: the configurations, or the typed text with error messages."""
    context: dict[str, Any] = {
        "address": f"/plan{form.address()}",
        "changes_text": changes_text,
        "form": form,
        "gpu_choices": gpu_choices(),
        "labels": LABELS,
        "links": needs_form,
        "memory_field": MEMORY,
        "models": catalogue.models(),
        "needs_fields": NEEDS,
        "plan_text": plan_text,
        "reserved_field": RESERVED[0],
        "trainer_fields": TRAINER,
        "stack_fields": STACK,
        "stack_typed": any(field.text(field.declared.default) != form.typed[field.name] for field in STACK),
        "shareable": len(form.address()) <= LONGEST_ADDRESS,
        "usual_priorities": USUAL_PRIORITIES,
    }
    try:
        answer = answer_to(parse_plan(form.body()))
    except PlanError as error:
        messages = form.messages(error.problems)
        return page(
            "plan/page.html", 422, **context, answer=None, errors=messages, title="These needs can't be planned"
        )
    return page("plan/page.html", **context, answer=answer, errors={}, title=plan_text.sentence(answer.plans[0]))
