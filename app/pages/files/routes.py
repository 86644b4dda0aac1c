"""`/export/{name}`, `/estimate.csv`, `/estimate.md` and `/import`: files that a plan is written to or read from."""

from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import Request

from app.engines.engine import answered
from app.forms.fields import DEVICE
from app.forms.plan_form import FILE, LONGEST_ADDRESS, Form, filled, read, read_strictly
from app.http.body_params import FormFields
from app.http.disconnection import client_of
from app.interop import imports, spreadsheet
from app.interop.exports import FORMATS, export
from app.pages.estimate.routes import ImportBox, plan_page
from app.pages.hidden import with_hidden
from app.presentation.templates import error_page
from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request

router = APIRouter(include_in_schema=False)

#: The fields that a plan of an imported file keeps, because such files do not describe a device.
DEVICE_FIELDS = tuple(field.name for field in DEVICE)

#: Those fields that a file can describe.
DISTRIBUTION = ("count", "sharding", "nodes")


@router.get("/export/{name}")
def get_export(request: Request, name: str) -> Response:
    """Return a file that runs the plan of the address."""
    return _exported(name, read(request.query_params.multi_items()))


@router.get("/export/{name}/{filename}")
def get_additional_export(request: Request, name: str, filename: str) -> Response:
    """Return a file that the exported one needs next to it."""
    return _exported(name, read(request.query_params.multi_items()), filename)


@router.post("/export/{name}/{filename}")
def post_additional_export(name: str, filename: str, fields: FormFields) -> Response:
    """Return the same for the plan of a submitted form."""
    return _exported(name, read(fields), filename)


@router.post("/export/{name}")
def post_export(name: str, fields: FormFields) -> Response:
    """Return a file that runs the plan of a submitted form, for plans whose address is too long."""
    return _exported(name, read(fields))


@router.get("/estimate.csv")
def get_csv(request: Request) -> Response:
    """Return every row of the estimate, for a spreadsheet."""
    form = read_strictly(request.query_params.multi_items())
    answer = answered(parse_request(form.estimate()), client_of(request))
    return _attachment("estimate.csv", spreadsheet.as_csv(answer), "text/csv")


@router.get("/estimate.md")
def get_markdown(request: Request) -> Response:
    """Return a summary of the estimate in Markdown."""
    form = read_strictly(request.query_params.multi_items())
    plan = parse_request(form.estimate())
    answer = answered(plan, client_of(request))
    address = f"{str(request.base_url).rstrip('/')}/{form.address()}"
    return _attachment("estimate.md", spreadsheet.as_markdown(plan, answer, address), "text/markdown")


@router.get("/import")
def get_import(request: Request) -> Response:
    """Show the plan of the file in the address, on the device in the address, with what the plan does not reproduce."""
    fields = request.query_params.multi_items()
    if FILE not in dict(fields):
        return RedirectResponse("/", 303)
    form, box = _imported(fields)
    return plan_page(form, str(request.base_url), box, client_of(request))


@router.post("/import")
def post_import(request: Request, fields: FormFields) -> Response:
    """Redirect to the address of a submitted file, or show its plan if the address is too long.

    The browser's Back button leads to that address. It contains the device and a readable file; of an unreadable file
    it contains every field.
    """
    form, box = _imported(fields)
    kept = {name: value for name, value in form.query().items() if box.wrong or name in DEVICE_FIELDS}
    address = f"/import?{urlencode({**kept, FILE: box.content})}"
    if len(address) <= LONGEST_ADDRESS:
        return RedirectResponse(address, 303)
    return plan_page(form, str(request.base_url), box, client_of(request))


def _imported(fields: list[tuple[str, str]]) -> tuple[Form, ImportBox]:
    """Return the form of a file on the selected device; if the file cannot be read, the form as submitted."""
    form, content = read(fields), dict(fields).get(FILE, "").replace("\r\n", "\n")
    try:
        imported = imports.read(content, plan=_plan(form))
    except PlanError as error:
        message = "; ".join(f"{problem.loc} {problem.msg}" for problem in error.problems)
        return form, ImportBox(content=content, wrong=message)
    device = {name: form.typed[name] for name in DEVICE_FIELDS}
    device |= {
        name: str(imported.request["device"][name])
        for name in DISTRIBUTION
        if name in imported.request.get("device", {})
    }
    box = ImportBox(content=content, imported=with_hidden(imported))
    return filled(imported.request, imported.tool).changed(**device), box


def _plan(form: Form) -> dict[str, Any] | None:
    """Return the form's request, which a file that only distributes a run changes; None if it cannot be read."""
    try:
        return form.estimate()
    except PlanError:
        return None


def _exported(name: str, form: Form, filename: str = "") -> Response:
    if name not in FORMATS:
        raise HTTPException(404)
    if form.unknown:
        return error_page(422, "No file for this run", f"No field is called {form.unknown[0]}.")
    try:
        file = export(parse_request(form.estimate()), name)
    except PlanError as error:
        message = "; ".join(problem.msg for problem in error.problems)
        return error_page(422, "No file for this run", message)
    if filename:
        others = {additional_file.filename: additional_file for additional_file in file.additional_files}
        if filename not in others:
            raise HTTPException(404)
        return _attachment(filename, others[filename].content, others[filename].media_type)
    return _attachment(file.filename, file.content, file.media_type)


def _attachment(filename: str, content: str, media_type: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{filename}"'}
    return Response(content, headers=headers, media_type=f"{media_type}; charset=utf-8")
