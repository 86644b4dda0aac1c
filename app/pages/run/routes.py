"""`/run`, and its JSON version `/run.json`."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.requests import Request

from app.api import run
from app.api.responses import json_response
from app.forms.fields import RUN
from app.forms.plan_form import LONGEST_ADDRESS
from app.http.body_params import FormFields
from app.pages.run.form import LABELS, RunForm, read
from app.presentation import run_text
from app.presentation.templates import page
from calculator.common.errors import PlanError, refusal
from calculator.run.request import parse_run
from calculator.run.run import whole_run

router = APIRouter(include_in_schema=False)


@router.get("/run")
def get_run(request: Request) -> Response:
    """Show every phase of the run of the address."""
    return _run_page(read(request.query_params.multi_items()))


@router.post("/run")
def post_run(fields: FormFields) -> Response:
    """Redirect to the address of a submitted form, or show its answer if the address is too long."""
    form = read(fields)
    address = f"/run{form.address()}"
    return RedirectResponse(address, 303) if len(address) <= LONGEST_ADDRESS else _run_page(form)


@router.get("/run.json")
def get_run_json(request: Request) -> Response:
    """Return the page as JSON: what POST /api/v1/run answers to the address."""
    form = read(request.query_params.multi_items())
    if form.unknown:
        raise refusal(form.unknown[0], "unknown parameter; the fields of the page are known", None)
    return json_response(run.answer(form.body()))


def _run_page(form: RunForm) -> Response:
    address = form.address()
    context: dict[str, Any] = {
        "address": address,
        "form": form,
        "hidden": form.plan.query(),
        "labels": LABELS,
        "run_fields": RUN,
        "run_text": run_text,
        "shareable": len(address) <= LONGEST_ADDRESS,
    }
    try:
        answer = whole_run(parse_run(form.body()))
    except PlanError as error:
        title = "This run can't be estimated"
        return page("run/page.html", 422, **context, answer=None, errors=form.messages(error.problems), title=title)
    return page("run/page.html", **context, answer=answer, errors={}, title=run_text.title(answer))
