"""The page of the room that a plan has on its card, and its JSON twin."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.requests import Request

from app.api.responses import json
from app.forms.plan_form import read
from app.pages.estimate import view as estimate_view
from app.pages.estimate.routes import strict
from app.pages.limits.view import room_of
from app.presentation.templates import page
from calculator.common.errors import PlanError

router = APIRouter(include_in_schema=False)


@router.get("/limits")
def get_limits(request: Request) -> Response:
    """The largest batch, sequence, rank, ... that fits, and the map of what fits, for the plan in the address."""
    form = read(request.query_params.multi_items())
    context: dict[str, Any] = {"form": form, "labels": estimate_view.labels()}
    try:
        found = room_of(form.estimate())
    except PlanError as error:
        wrong = estimate_view.messages(form, error.problems)
        return page("limits/page.html", 422, **context, room=None, problems=wrong, title="This plan has no limits")
    return page("limits/page.html", **context, room=found, problems={}, title="The largest that fits")


@router.get("/limits.json")
def get_limits_json(request: Request) -> Response:
    """The twin of that page: what POST /api/v1/limits answers, for each setting in turn, and the map."""
    return json(room_of(strict(request).estimate()).answer())
