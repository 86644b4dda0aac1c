"""Files of a plan, handed out and taken in by the plan's page: what runs it, and other tools' configurations."""

from urllib.parse import urlencode

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import Request

from app.forms.fields import DEVICE
from app.forms.plan_form import FILE, LONGEST_ADDRESS, Form, filled, read
from app.http.body_params import FormFields
from app.interop import imports, spreadsheet
from app.interop.exports import FORMATS, export
from app.pages.estimate import routes as estimate_routes
from calculator.common.errors import PlanError
from calculator.estimate.estimate import estimate
from calculator.estimate.request import parse_request

router = APIRouter(include_in_schema=False)

#: The inputs of which other tools' files say nothing: a plan of one keeps them.
CARD = tuple(field.name for field in DEVICE)


@router.get("/export/{name}")
def get_export(request: Request, name: str) -> Response:
    """The plan in the address as a file that runs it."""
    return _file(name, read(request.query_params.multi_items()))


@router.post("/export/{name}")
def post_export(name: str, typed: FormFields) -> Response:
    """The same by a form too long for an address."""
    return _file(name, read(typed))


@router.get("/estimate.csv")
def get_csv(request: Request) -> Response:
    """Every row of the plan in the address, for a spreadsheet."""
    answer = estimate(parse_request(estimate_routes.strict(request).estimate()))
    return _attached("estimate.csv", spreadsheet.as_csv(answer), "text/csv")


@router.get("/estimate.md")
def get_markdown(request: Request) -> Response:
    """The plan in the address as a summary."""
    form = estimate_routes.strict(request)
    asked = parse_request(form.estimate())
    address = f"{str(request.base_url).rstrip('/')}/{form.address()}"
    return _attached("estimate.md", spreadsheet.as_markdown(asked, estimate(asked), address), "text/markdown")


@router.get("/import")
def get_import(request: Request) -> Response:
    """The plan of the file in the address, on the card beside it, with what of the file it does not hold."""
    typed = request.query_params.multi_items()
    if FILE not in dict(typed):
        return RedirectResponse("/", 303)
    form, box = _imported(typed)
    return estimate_routes.plan_page(form, str(request.base_url), box)


@router.post("/import")
def post_import(request: Request, typed: FormFields) -> Response:
    """Another tool's file as a plan: lead to the address that says the file, or answer at once where that is too long.

    The address is what Back leads to, and of a good file it keeps the card alone: the file says the rest.
    """
    form, box = _imported(typed)
    kept = {name: value for name, value in form.differing().items() if box.wrong or name in CARD}
    address = f"/import?{urlencode({**kept, FILE: box.content})}"
    if len(address) <= LONGEST_ADDRESS:
        return RedirectResponse(address, 303)
    return estimate_routes.plan_page(form, str(request.base_url), box)


def _imported(typed: list[tuple[str, str]]) -> tuple[Form, estimate_routes.ImportBox]:
    """The form of a file on the card that is typed beside it; where it can't be read, all that is typed."""
    form, content = read(typed), dict(typed).get(FILE, "").replace("\r\n", "\n")
    try:
        imported = imports.read(content)
    except PlanError as error:
        message = "; ".join(f"{problem.loc} {problem.msg}" for problem in error.problems)
        return form, estimate_routes.ImportBox(content=content, wrong=message)
    card = {name: form.typed[name] for name in CARD}
    return filled(imported.request).changed(**card), estimate_routes.ImportBox(content=content, imported=imported)


def _file(name: str, form: Form) -> Response:
    if name not in FORMATS:
        raise HTTPException(404)
    if form.unknown:
        return estimate_routes.error_page(422, "No file for this plan", f"No input is called {form.unknown[0]}.")
    try:
        file = export(parse_request(form.estimate()), name)
    except PlanError as error:
        message = "; ".join(problem.msg for problem in error.problems)
        return estimate_routes.error_page(422, "No file for this plan", message)
    return _attached(file.filename, file.content, file.media_type)


def _attached(filename: str, content: str, media_type: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{filename}"'}
    return Response(content, headers=headers, media_type=f"{media_type}; charset=utf-8")
