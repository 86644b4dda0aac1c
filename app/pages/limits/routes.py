"""`/limits`, and its JSON version `/limits.json`."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.requests import Request

from app.api.responses import json_response
from app.forms.layout import LABELS
from app.forms.plan_form import read, read_strictly
from app.pages.limits.view import plan_limits
from app.presentation.templates import page
from calculator.common.errors import PlanError

router = APIRouter(include_in_schema=False)


@router.get("/limits")
def get_limits(request: Request) -> Response:
    """Show the largest batch, sequence, rank, ... that fits, and the map of verdicts, for the plan of the address."""
    form = read(request.query_params.multi_items())
    context: dict[str, Any] = {"form": form, "labels": LABELS}
    try:
        limits = plan_limits(form.estimate())
    except PlanError as error:
        messages = form.messages(error.problems)
        title = "The limits of this plan can't be computed"
        return page("limits/page.html", 422, **context, limits=None, problems=messages, title=title)
    return page("limits/page.html", **context, limits=limits, problems={}, title="The largest that fits")


@router.get("/limits.json")
def get_limits_json(request: Request) -> Response:
    """Return the page as JSON: what POST /api/v1/limits answers for each setting, and the map."""
    form = read_strictly(request.query_params.multi_items())
    return json_response(plan_limits(form.estimate()).answer())
