"""`/limits`, and its JSON version `/limits.json`."""

from collections.abc import Iterator, Sequence

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.requests import Request

from app.api.responses import json_response
from app.forms.layout import LABELS, gpu_id
from app.forms.plan_form import Form, read, read_strictly
from app.pages.limits.view import PlanLimits, plan_limits
from app.pages.parts import PageInParts, Part
from calculator.common.errors import PlanError, Problem
from calculator.devices.gpus import gpu

router = APIRouter(include_in_schema=False)


@router.get("/limits")
def get_limits(request: Request) -> Response:
    """Show the largest batch, sequence, rank, ... that fits, and the map of verdicts, for the plan of the address."""
    form = read(request.query_params.multi_items())

    def refusal(problems: Sequence[Problem]) -> Part:
        title = "The limits of this run can't be computed"
        return Part(
            template="limits/refusal.html",
            context={"problems": form.messages(problems), "title": title},
            refuses=True,
        )

    context = {
        "card": _card(form),
        "form": form,
        "labels": LABELS,
        "problems": {},
        "title": "Largest settings that fit",
    }
    page = PageInParts(template="limits/page.html", context=context, refusal=refusal)
    try:
        body = form.estimate()
        limits = plan_limits(body)
    except PlanError as error:
        return page.refused(error.problems)
    return page.answered(_parts(limits), body)


def _card(form: Form) -> str:
    """Return the GPU's name, with their number if there are several. Empty if the form names none."""
    card = gpu_id(form.typed["gpu"])
    count = form.shown("count")
    return f"{'' if count == '1' else f'{count} × '}{gpu(card).name}" if card else ""


def _parts(limits: PlanLimits) -> Iterator[Part]:
    yield Part(template="limits/largest.html", context={"limits": limits})
    yield Part(template="limits/map.html", context={"map": limits.map})


@router.get("/limits.json")
def get_limits_json(request: Request) -> Response:
    """Return the page as JSON: what POST /api/v1/limits answers for each setting, and the map."""
    form = read_strictly(request.query_params.multi_items())
    return json_response(plan_limits(form.estimate()).answer())
