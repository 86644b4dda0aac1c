"""The page of serving, and its JSON twin."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.requests import Request

from app import plan, serving, verdict
from app.endpoints import inference
from app.endpoints.responses import json
from app.form import LONGEST_ADDRESS
from app.posted import FormFields
from app.templates import page
from calculator import catalogue
from calculator.comparison import AXES
from calculator.errors import PlanError, refusal
from calculator.methods import METHODS
from calculator.serving.inference import inference as answer_to
from calculator.serving.request import parse_inference

router = APIRouter(include_in_schema=False)


@router.get("/inference")
def get_inference(request: Request) -> Response:
    """What it takes to serve what the address says."""
    return serving_page(serving.read(request.query_params.multi_items()))


@router.post("/inference")
def post_inference(typed: FormFields) -> Response:
    """The same by a form too long for an address; where it is not, lead to the address."""
    form = serving.read(typed)
    address = f"/inference{form.address()}"
    return RedirectResponse(address, 303) if len(address) <= LONGEST_ADDRESS else serving_page(form)


@router.get("/inference.json")
def get_inference_json(request: Request) -> Response:
    """The page's twin: what POST /api/v1/inference answers to the address."""
    form = serving.read(request.query_params.multi_items())
    if form.unknown:
        raise refusal(form.unknown[0], "unknown parameter; the page's inputs are known", None)
    return json(inference.answered(form.body()))


def serving_page(form: serving.ServingForm) -> Response:
    """The page of serving: with its answer, or with what is wrong beside everything typed."""
    told: dict[str, Any] = {
        "address": f"/inference{form.address()}",
        "form": form,
        "gpu_choices": plan.gpu_choices(),
        "groups": plan.groups(),
        "labels": serving.LABELS,
        "methods": {name: AXES[name] for name in METHODS},
        "models": catalogue.models(),
        "serving": serving,
        "shareable": len(form.address()) <= LONGEST_ADDRESS,
        "words": verdict,
    }
    try:
        answer = answer_to(parse_inference(form.body()))
    except PlanError as error:
        wrong = serving.messages(form, error.problems)
        return page("serving/page.html", 422, **told, answer=None, errors=wrong, title="This can't be served so")
    gauge = verdict.drawn(serving.parts(answer), answer.fit)
    return page("serving/page.html", **told, answer=answer, errors={}, gauge=gauge, title=serving.title(answer))
