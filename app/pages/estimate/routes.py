"""`/`, and its JSON versions `/estimate.json` and `/compare.json`."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.requests import Request

from app.api import compare, estimate
from app.api.accuracy.accuracy import accuracy
from app.api.responses import json_response
from app.engines.engine import Client
from app.forms import tool_fields
from app.forms.layout import LABELS, gpu_choices, gpu_id, groups
from app.forms.plan_form import DEFAULTS, FILE, LONGEST_ADDRESS, LONGEST_REPEATED, Form, read, read_strictly
from app.http.body_params import FormFields
from app.http.disconnection import client_of
from app.interop.imports import Imported
from app.pages.estimate import parts, view
from app.pages.inference import form as inference_form
from app.pages.parts import PageInParts
from app.presentation import verdict
from app.presentation.changes import changes_text
from app.presentation.consequences import consequences
from app.presentation.grades import grade_sentence
from app.presentation.memory_interval import interval_sentence
from app.tools import TOOLS
from calculator import catalogue
from calculator.common.errors import PlanError, Problem
from calculator.methods import METHODS, USUAL_METHODS

router = APIRouter(include_in_schema=False)


@router.get("/")
def get_plan(request: Request) -> Response:
    """Show the plan of the address."""
    return plan_page(read(request.query_params.multi_items()), str(request.base_url), client=client_of(request))


@router.post("/")
def post_plan(request: Request, fields: FormFields) -> Response:
    """Redirect to the address of a submitted form, or show its plan if the address is too long."""
    form = read(fields)
    address = f"/{form.address()}"
    if len(address) <= LONGEST_ADDRESS:
        return RedirectResponse(address, 303)
    return plan_page(form, str(request.base_url), client=client_of(request))


@router.get("/estimate.json")
def get_estimate(request: Request) -> Response:
    """Return the page's estimate as JSON: what POST /api/v1/estimate answers to the plan of the address."""
    body = read_strictly(request.query_params.multi_items()).estimate()
    return json_response(estimate.answer_text(body, client_of(request)))


@router.get("/compare.json")
def get_compare(request: Request) -> Response:
    """Return the page's comparison as JSON: what POST /api/v1/compare answers to the plan of the address."""
    return json_response(compare.answer(read_strictly(request.query_params.multi_items()).comparison()))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportBox:
    """The box for another tool's file: the file that the plan comes from, or a file that cannot be read."""

    imported: Imported | None = None
    content: str = ""
    #: Why the file cannot be read.
    wrong: str = ""


def plan_page(form: Form, origin: str, box: ImportBox | None = None, client: Client | None = None) -> Response:
    """Return the page of a plan: its answer, or the typed text with error messages.

    Raises:
        HTTPProblem: 503, if the plan is traced, and too many traces wait or the client has gone.
    """
    box = box or ImportBox()
    context: dict[str, Any] = {
        "form": form,
        "origin": origin.rstrip("/"),
        "import_box": box,
        **_address_limits(form),
        **_tool(form),
        **_constants(),
        "address": f"/{form.address()}",
        "errors": {},
        "estimate": None,
        "figure": None,
        "gpu": gpu_id(form.typed["gpu"]),
        "plan": None,
        "problems": {},
        "serving_address": inference_form.address_of(form),
        "title": _subject(form),
    }
    page = PageInParts(
        template="estimate/page.html",
        context=context,
        refusal=partial(parts.refusal, form),
        late="estimate/late.html",
    )
    if box.wrong:
        return page.refused([Problem(loc=FILE, msg=box.wrong)])
    try:
        requests = view.requests_of(form)
    except PlanError as error:
        return page.refused(error.problems)
    return page.answered(parts.answer(form, requests, client), form.estimate())


def _subject(form: Form) -> str:
    """Return the title of a page without an answer."""
    label = METHODS[form.method].facts.label if form.method in METHODS else "A run"
    return f"{label} on {form.typed['model'] or 'a model of your own'}"


def _address_limits(form: Form) -> dict[str, bool]:
    """Return whether the plan's address is short enough to repeat in every link, and to share."""
    length = len(f"/{form.address()}")
    return {"linked": length <= LONGEST_REPEATED, "shareable": length <= LONGEST_ADDRESS}


def _tool(form: Form) -> dict[str, Any]:
    """Return the defaults of the plan's tool, and the changes that set them all."""
    tool = form.tool
    if tool is None:
        return {"tool_settings": (), "tool_changes": {}}
    rows = tool_fields.settings(tool, form.typed)
    tool_texts = tool_fields.texts(tool, form.method, DEFAULTS) if any(row.instead for row in rows) else {}
    tool_texts |= tool_fields.raised(tool, form.typed)
    changes = {name: text for name, text in tool_texts.items() if form.typed[name] != text}
    return {"tool_settings": rows, "tool_changes": changes}


def _constants() -> dict[str, Any]:
    return {
        "accuracy": accuracy,
        "changes_text": changes_text,
        "consequences": consequences,
        "grade_sentence": grade_sentence,
        "gpu_choices": gpu_choices(),
        "interval_sentence": interval_sentence,
        "groups": groups(),
        "labels": {**LABELS, FILE: "The file"},
        "methods": {name: cls.facts for name, cls in METHODS.items()},
        "usual_methods": USUAL_METHODS,
        "models": catalogue.models(),
        "tools": TOOLS,
        "verdict_text": verdict,
    }
