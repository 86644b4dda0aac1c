"""`/difference`, and its JSON version `/difference.json`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.requests import Request

from app.api.responses import json_response
from app.pages.difference import view
from app.pages.difference.answers import difference_answer
from app.pages.difference.view import INPUT, MOST_PLANS, ComparedPlan, Difference
from app.pages.parts import PageInParts, Part
from calculator.common.errors import PlanError, Problem, refusal

router = APIRouter(include_in_schema=False)


@router.get("/difference")
def get_difference(request: Request) -> Response:
    """Show the plans of the address side by side, or the addresses with error messages."""
    typed = [link for link in request.query_params.getlist(INPUT) if link.strip()]
    context: dict[str, Any] = {
        "address": view.address_of(typed),
        "errors": {},
        "most": MOST_PLANS,
        "title": "What differs between runs",
        "typed": typed,
        "view": view,
    }
    page = PageInParts(template="difference/page.html", context=context, refusal=_refusal)
    try:
        _check(typed)
    except PlanError as error:
        return page.refused(error.problems)
    return page.answered(_parts(typed))


@router.get("/difference.json")
def get_difference_json(request: Request) -> Response:
    """Return the page as JSON."""
    typed = request.query_params.getlist(INPUT)
    if not 1 < len(typed) <= MOST_PLANS:
        raise refusal(INPUT, f"give 2 to {MOST_PLANS} addresses of estimates, each as {INPUT}=", typed)
    return json_response(difference_answer(Difference(plans=tuple(map(view.compared, typed)))))


def _check(typed: list[str]) -> None:
    """Check the addresses.

    Raises:
        PlanError: at the index of each that is not the address of a plan.
    """
    problems = _problems(typed[:MOST_PLANS], view.requested)
    if len(typed) > MOST_PLANS:
        problems.append(Problem(loc=str(MOST_PLANS), msg=f"at most {MOST_PLANS} runs can be compared"))
    if problems:
        raise PlanError(*problems)


def _parts(typed: list[str]) -> Iterator[Part]:
    plans: list[ComparedPlan] = []
    problems = _problems(typed, lambda address: plans.append(view.compared(address)))
    if problems:
        raise PlanError(*problems)
    if len(plans) > 1:
        yield Part(template="difference/answer.html", context={"difference": Difference(plans=tuple(plans))})


def _problems(typed: Iterable[str], answer: Callable[[str], object]) -> list[Problem]:
    """Return why addresses are refused, each at its index."""
    problems = []
    for index, address in enumerate(typed):
        try:
            answer(address)
        except PlanError as error:
            problems.append(Problem(loc=str(index), msg=view.reason(address, error)))
    return problems


def _refusal(problems: Sequence[Problem]) -> Part:
    errors = {int(problem.loc) if problem.loc.isdecimal() else None: problem.msg for problem in problems}
    context = {"errors": errors, "title": "These runs can't be compared"}
    return Part(template="difference/refusal.html", context=context, refuses=True)
