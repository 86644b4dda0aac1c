"""The templates' environment: strict, escaping, and with the one formatter's filters."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app import format as told
from app.components import COMPONENTS, PHASES
from app.verdict import WORDS
from app.version import ROOT, VERSION

STATIC = ROOT / "static"


@cache
def static(path: str) -> str:
    """A static file's address, which changes with its content."""
    return f"/static/{path}?v={sha256((STATIC / path).read_bytes()).hexdigest()[:12]}"


environment = Environment(
    loader=FileSystemLoader(ROOT / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
environment.filters.update(
    deviation=told.deviation,
    exact=told.exact,
    margin=told.margin,
    number=told.number,
    parameters=told.parameters,
    percent=told.percent,
    sentence=told.sentence,
    signed=told.signed,
    size=told.size,
)
environment.globals.update(components=COMPONENTS, phases=PHASES, static=static, verdicts=WORDS, version=VERSION)


def page(name: str, status: int = 200, **context: Any) -> HTMLResponse:
    """A rendered page."""
    return HTMLResponse(environment.get_template(name).render(context), status)
