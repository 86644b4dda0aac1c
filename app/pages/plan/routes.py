"""The page of needs, and its JSON twin."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.requests import Request

from app.api import plan
from app.api.responses import json
from app.forms.plan_form import LONGEST_ADDRESS
from app.http.body_params import FormFields
from app.pages.estimate.view import changed, gpu_choices
from app.pages.plan import view
from app.presentation.templates import page
from calculator import catalogue
from calculator.common.errors import PlanError, refusal

router = APIRouter(include_in_schema=False)


@router.get("/plan")
def get_needs(request: Request) -> Response:
    """The configurations to choose from for the needs in the address."""
    return needs_page(view.read(request.query_params.multi_items()))


@router.post("/plan")
def post_needs(typed: FormFields) -> Response:
    """The same by a form too long for an address; where it is not, lead to the address."""
    form = view.read(typed)
    address = f"/plan{form.address()}"
    return RedirectResponse(address, 303) if len(address) <= LONGEST_ADDRESS else needs_page(form)


@router.get("/plan.json")
def get_needs_json(request: Request) -> Response:
    """The page's twin: what POST /api/v1/plan answers to the needs in the address."""
    form = view.read(request.query_params.multi_items())
    if form.unknown:
        raise refusal(form.unknown[0], "unknown parameter; the page's inputs are known", None)
    return json(plan.answered(form.body()))


def needs_page(form: view.NeedsForm) -> Response:
    """The page of needs: with what fits, or with what is wrong beside everything typed."""
    context: dict[str, Any] = {
        "changed": changed,
        "address": f"/plan{form.address()}",
        "form": form,
        "gpu_choices": gpu_choices(),
        "labels": view.LABELS,
        "models": catalogue.models(),
        "needs": view,
        "shareable": len(form.address()) <= LONGEST_ADDRESS,
    }
    try:
        answer = view.planned(form)
    except PlanError as error:
        wrong = view.messages(form, error.problems)
        return page("plan/page.html", 422, **context, answer=None, errors=wrong, title="These needs have no answer")
    return page("plan/page.html", **context, answer=answer, errors={}, title=view.sentence(answer.plans[0]))
