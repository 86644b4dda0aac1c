"""The page of serving, and its JSON twin."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.requests import Request

from app.api import inference
from app.api.responses import json
from app.forms.plan_form import LONGEST_ADDRESS
from app.http.body_params import FormFields
from app.pages.estimate import view as estimate_view
from app.pages.inference import view
from app.presentation import verdict
from app.presentation.templates import page
from calculator import catalogue
from calculator.common.errors import PlanError, refusal
from calculator.inference.inference import inference as answer_to
from calculator.inference.request import parse_inference
from calculator.methods import METHODS

router = APIRouter(include_in_schema=False)


@router.get("/inference")
def get_inference(request: Request) -> Response:
    """What it takes to serve what the address says."""
    return serving_page(view.read(request.query_params.multi_items()))


@router.post("/inference")
def post_inference(typed: FormFields) -> Response:
    """The same by a form too long for an address; where it is not, lead to the address."""
    form = view.read(typed)
    address = f"/inference{form.address()}"
    return RedirectResponse(address, 303) if len(address) <= LONGEST_ADDRESS else serving_page(form)


@router.get("/inference.json")
def get_inference_json(request: Request) -> Response:
    """The page's twin: what POST /api/v1/inference answers to the address."""
    form = view.read(request.query_params.multi_items())
    if form.unknown:
        raise refusal(form.unknown[0], "unknown parameter; the page's inputs are known", None)
    return json(inference.answered(form.body()))


def serving_page(form: view.ServingForm) -> Response:
    """The page of serving: with its answer, or with what is wrong beside everything typed."""
    context: dict[str, Any] = {
        "address": f"/inference{form.address()}",
        "form": form,
        "gpu_choices": estimate_view.gpu_choices(),
        "groups": estimate_view.groups(),
        "labels": view.LABELS,
        "methods": {name: cls.facts for name, cls in METHODS.items()},
        "models": catalogue.models(),
        "serving": view,
        "shareable": len(form.address()) <= LONGEST_ADDRESS,
        "verdict_text": verdict,
    }
    try:
        answer = answer_to(parse_inference(form.body()))
    except PlanError as error:
        wrong = view.messages(form, error.problems)
        return page("inference/page.html", 422, **context, answer=None, errors=wrong, title="This can't be served so")
    gauge = verdict.drawn(view.parts(answer), answer.fit)
    return page("inference/page.html", **context, answer=answer, errors={}, gauge=gauge, title=view.title(answer))
