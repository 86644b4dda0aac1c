"""The page of what differs between plans, and its JSON twin."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.requests import Request

from app.api.responses import json
from app.pages.difference import view
from app.pages.difference.view import INPUT, MOST_PLANS, Compared, Difference
from app.presentation.templates import page
from calculator.common.errors import PlanError, refusal

router = APIRouter(include_in_schema=False)


@router.get("/difference")
def get_difference(request: Request) -> Response:
    """The plans in the address side by side, or what is wrong with them beside the addresses that were given."""
    typed = [each for each in request.query_params.getlist(INPUT) if each.strip()]
    plans, wrong = _answered(typed)
    context: dict[str, Any] = {
        "address": view.address_of(typed),
        "errors": wrong,
        "most": MOST_PLANS,
        "typed": typed,
        "view": view,
    }
    found = Difference(plans=tuple(plans)) if len(plans) > 1 and not wrong else None
    title = "These plans can't be compared" if wrong else "What differs between plans"
    return page("difference/page.html", 422 if wrong else 200, **context, found=found, title=title)


@router.get("/difference.json")
def get_difference_json(request: Request) -> Response:
    """The page's twin."""
    typed = request.query_params.getlist(INPUT)
    if not 1 < len(typed) <= MOST_PLANS:
        raise refusal(INPUT, f"give 2 to {MOST_PLANS} addresses of plans, each as {INPUT}=", typed)
    return json(view.answer_of(Difference(plans=tuple(map(view.compared, typed)))))


def _answered(typed: list[str]) -> tuple[list[Compared], dict[int, str]]:
    """The plans, and what is wrong by the place of an address."""
    plans: list[Compared] = []
    wrong: dict[int, str] = {}
    for place, each in enumerate(typed):
        try:
            plans.append(view.compared(each))
        except PlanError as error:
            wrong[place] = view.reason(each, error)
        if place >= MOST_PLANS:
            wrong[place] = f"at most {MOST_PLANS} plans are held beside each other"
            break
    return plans, wrong
