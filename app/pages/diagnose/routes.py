"""`/diagnose`: an out-of-memory message and the run that it ended."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.requests import Request

from app.api.diagnose import ReadCase
from app.forms.fields import PHASES
from app.forms.layout import gpu_choices, gpu_id
from app.http.body_params import FormFields
from app.pages.diagnose.view import LABELS, Case, case_of, shown
from app.pages.parts import PageInParts, Part
from app.presentation import diagnosis_text
from app.presentation.changes import changes_text
from app.presentation.charts import snapshot_figure, timeline_figure
from calculator.common.errors import PlanError, Problem

router = APIRouter(include_in_schema=False)


@router.get("/diagnose")
def get_diagnose(request: Request) -> Response:
    """Show the form for the plan of the address, and the diagnosis if the address has a message."""
    return diagnose_page(case_of(request.query_params.multi_items()))


@router.post("/diagnose")
def post_diagnose(fields: FormFields) -> Response:
    """Show the diagnosis of a submitted message."""
    return diagnose_page(case_of(fields), submitted=True)


def diagnose_page(case: Case, *, submitted: bool = False) -> Response:
    """Return the page of a case: its diagnosis, or the form with error messages."""
    context: dict[str, Any] = {
        "case": case,
        "changes_text": changes_text,
        "diagnosis_text": diagnosis_text,
        "gpu": gpu_id(case.plan.typed["gpu"]),
        "gpu_choices": gpu_choices(),
        "labels": LABELS,
        "phase_fields": PHASES,
        "shown": None,
        "errors": {},
        "title": "Why did it run out of memory?",
    }
    page = PageInParts(template="diagnose/page.html", context=context, refusal=partial(_refusal, case))
    if not (submitted or case.message.strip()):
        return page.answered(iter((Part(template="diagnose/how.html"),)))
    try:
        read = case.read()
    except PlanError as error:
        return page.refused(error.problems)
    return page.answered(_parts(case, read))


def _parts(case: Case, read: ReadCase) -> Iterator[Part]:
    part = shown(case, read)
    diagnosis = part.diagnosed.diagnosis
    memory = diagnosis.estimate.memory
    context = {
        "memory": memory,
        "shown": part,
        "snapshot_line": snapshot_figure(diagnosis.snapshot.snapshot.line) if diagnosis.snapshot else None,
        "timeline": timeline_figure(memory),
        "title": diagnosis_text.title(diagnosis),
    }
    yield Part(template="diagnose/answer.html", context=context)


def _refusal(case: Case, problems: Sequence[Problem]) -> Part:
    context = {"errors": case.errors(tuple(problems)), "title": "This error can't be explained"}
    return Part(template="diagnose/refusal.html", context=context, refuses=True)
