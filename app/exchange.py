"""Files of a plan, handed out and taken in by the plan's page: what runs it, and other tools' configurations."""

from urllib.parse import parse_qsl

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from app import imports, pages, rows
from app.bodies import body
from app.exports import FORMATS, export
from app.form import FILE, LONGEST_ADDRESS, Form, filled, read
from calculator.errors import PlanError
from calculator.estimate import estimate
from calculator.request import parse_request

router = APIRouter(include_in_schema=False)


@router.get("/export/{name}")
async def get_export(request: Request, name: str) -> Response:
    """The plan in the address as a file that runs it."""
    return _file(name, read(request.query_params.multi_items()))


@router.post("/export/{name}")
async def post_export(request: Request, name: str) -> Response:
    """The same by a form too long for an address."""
    return _file(name, read(await _posted(request)))


@router.get("/estimate.csv")
async def get_csv(request: Request) -> Response:
    """Every row of the plan in the address, for a spreadsheet."""
    answer = estimate(parse_request(pages.strict(request).estimate()))
    return _attached("estimate.csv", rows.as_csv(answer), "text/csv")


@router.get("/estimate.md")
async def get_markdown(request: Request) -> Response:
    """The plan in the address as a summary."""
    form = pages.strict(request)
    asked = parse_request(form.estimate())
    address = f"{str(request.base_url).rstrip('/')}/{form.address()}"
    return _attached("estimate.md", rows.as_markdown(asked, estimate(asked), address), "text/markdown")


@router.get("/import")
async def get_import() -> Response:
    """Where an imported plan was shown; it is no address of its own."""
    return RedirectResponse("/", 303)


@router.post("/import")
async def post_import(request: Request) -> Response:
    """Another tool's file as a plan: lead to its address, or show it with what of the file it does not hold."""
    typed, origin = await _posted(request), str(request.base_url)
    content = dict(typed).get(FILE, "")
    try:
        imported = await run_in_threadpool(imports.read, content)
    except PlanError as error:
        told = "; ".join(f"{problem.loc} {problem.msg}" for problem in error.problems)
        return pages.plan_page(read(typed), origin, pages.Box(content=content, wrong=told))
    form = filled(imported.request)
    address = f"/{form.address()}"
    if imported.not_understood or len(address) > LONGEST_ADDRESS:
        return pages.plan_page(form, origin, pages.Box(imported=imported))
    return RedirectResponse(address, 303)


def _file(name: str, form: Form) -> Response:
    if name not in FORMATS:
        raise HTTPException(404)
    if form.unknown:
        return pages.error_page(422, "No file for this plan", f"No input is called {form.unknown[0]}.")
    try:
        file = export(parse_request(form.estimate()), name)
    except PlanError as error:
        told = "; ".join(problem.msg for problem in error.problems)
        return pages.error_page(422, "No file for this plan", told)
    return _attached(file.filename, file.content, file.media_type)


def _attached(filename: str, content: str, media_type: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{filename}"'}
    return Response(content, headers=headers, media_type=f"{media_type}; charset=utf-8")


async def _posted(request: Request) -> list[tuple[str, str]]:
    return parse_qsl((await body(request)).decode("utf-8", "replace"), keep_blank_values=True)
