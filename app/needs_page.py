"""The page of needs, and its JSON twin."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.requests import Request

from app import needs
from app.endpoints import plan
from app.endpoints.responses import json
from app.form import LONGEST_ADDRESS
from app.plan import changed, gpu_choices
from app.posted import FormFields
from app.templates import page
from calculator import catalogue
from calculator.errors import PlanError, refusal

router = APIRouter(include_in_schema=False)


@router.get("/plan")
def get_needs(request: Request) -> Response:
    """The configurations to choose from for the needs in the address."""
    return needs_page(needs.read(request.query_params.multi_items()))


@router.post("/plan")
def post_needs(typed: FormFields) -> Response:
    """The same by a form too long for an address; where it is not, lead to the address."""
    form = needs.read(typed)
    address = f"/plan{form.address()}"
    return RedirectResponse(address, 303) if len(address) <= LONGEST_ADDRESS else needs_page(form)


@router.get("/plan.json")
def get_needs_json(request: Request) -> Response:
    """The page's twin: what POST /api/v1/plan answers to the needs in the address."""
    form = needs.read(request.query_params.multi_items())
    if form.unknown:
        raise refusal(form.unknown[0], "unknown parameter; the page's inputs are known", None)
    return json(plan.answered(form.body()))


def needs_page(form: needs.NeedsForm) -> Response:
    """The page of needs: with what fits, or with what is wrong beside everything typed."""
    told: dict[str, Any] = {
        "changed": changed,
        "address": f"/plan{form.address()}",
        "form": form,
        "gpu_choices": gpu_choices(),
        "labels": needs.LABELS,
        "models": catalogue.models(),
        "needs": needs,
        "shareable": len(form.address()) <= LONGEST_ADDRESS,
    }
    try:
        answer = needs.planned(form)
    except PlanError as error:
        wrong = needs.messages(form, error.problems)
        return page("needs/page.html", 422, **told, answer=None, errors=wrong, title="These needs have no answer")
    return page("needs/page.html", **told, answer=answer, errors={}, title=needs.sentence(answer.plans[0]))
