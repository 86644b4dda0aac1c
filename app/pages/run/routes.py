"""`/run`, and its JSON version `/run.json`."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from fastapi.responses import Response

from app.api import run
from app.forms.fields import RUN
from app.forms.plan_form import LONGEST_ADDRESS
from app.pages.form_routes import form_routes
from app.pages.parts import PageInParts, Part
from app.pages.run.form import LABELS, RunForm, read
from app.presentation import run_text, speed_text, verdict
from calculator.common.errors import PlanError, Problem
from calculator.run.request import RunRequest, parse_run
from calculator.run.run import whole_run


def _run_page(form: RunForm) -> Response:
    address = form.address()
    context: dict[str, Any] = {
        "address": address,
        "form": form,
        "hidden": form.plan.query(),
        "labels": LABELS,
        "run_fields": RUN,
        "run_text": run_text,
        "speed_text": speed_text,
        "shareable": len(address) <= LONGEST_ADDRESS,
        "answer": None,
        "errors": {},
        "title": "The whole run",
        "verdict_text": verdict,
    }
    page = PageInParts(template="run/page.html", context=context, refusal=partial(_refusal, form))
    try:
        body = form.body()
        request = parse_run(body)
    except PlanError as error:
        return page.refused(error.problems)
    return page.answered(_parts(request), body)


def _parts(request: RunRequest) -> Iterator[Part]:
    answer = whole_run(request)
    yield Part(template="run/answer.html", context={"answer": answer, "title": run_text.title(answer)})


def _refusal(form: RunForm, problems: Sequence[Problem]) -> Part:
    context = {"errors": form.messages(problems), "title": "This run can't be estimated"}
    return Part(template="run/refusal.html", context=context, refuses=True)


router = form_routes("/run", read, _run_page, run)
