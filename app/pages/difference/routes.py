"""`/difference`, and its JSON version `/difference.json`."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.requests import Request

from app.api.responses import json_response
from app.pages.difference import view
from app.pages.difference.answers import difference_answer
from app.pages.difference.view import INPUT, MOST_PLANS, ComparedPlan, Difference
from app.presentation.templates import page
from calculator.common.errors import PlanError, refusal

router = APIRouter(include_in_schema=False)


@router.get("/difference")
def get_difference(request: Request) -> Response:
    """Show the plans of the address side by side, or the addresses with error messages."""
    typed = [each for each in request.query_params.getlist(INPUT) if each.strip()]
    plans, errors = _answered(typed)
    context: dict[str, Any] = {
        "address": view.address_of(typed),
        "errors": errors,
        "most": MOST_PLANS,
        "typed": typed,
        "view": view,
    }
    difference = Difference(plans=tuple(plans)) if len(plans) > 1 and not errors else None
    title = "These plans can't be compared" if errors else "What differs between plans"
    return page("difference/page.html", 422 if errors else 200, **context, difference=difference, title=title)


@router.get("/difference.json")
def get_difference_json(request: Request) -> Response:
    """Return the page as JSON."""
    typed = request.query_params.getlist(INPUT)
    if not 1 < len(typed) <= MOST_PLANS:
        raise refusal(INPUT, f"give 2 to {MOST_PLANS} addresses of plans, each as {INPUT}=", typed)
    return json_response(difference_answer(Difference(plans=tuple(map(view.compared, typed)))))


def _answered(typed: list[str]) -> tuple[list[ComparedPlan], dict[int, str]]:
    """Return the plans, and the error messages by the index of the address."""
    plans: list[ComparedPlan] = []
    errors: dict[int, str] = {}
    for index, address in enumerate(typed):
        try:
            plans.append(view.compared(address))
        except PlanError as error:
            errors[index] = view.reason(address, error)
        if index >= MOST_PLANS:
            errors[index] = f"at most {MOST_PLANS} plans can be compared"
            break
    return plans, errors
