"""The Jinja environment of the pages: strict, with autoescaping and the formatting filters."""

from __future__ import annotations

import re
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from app.forms.messages import worded
from app.http.root_path import ROOT_PATH, from_root
from app.presentation.format import (
    about,
    decimal,
    deviation,
    exact,
    margin,
    number,
    parameters,
    percent,
    plain,
    sentence,
    signed,
    size,
)
from app.presentation.labels import COMPONENTS, PHASES
from app.presentation.mathml import math, matrix
from app.presentation.verdict import VERDICTS
from app.resources import STATIC, TEMPLATES, VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping


@cache
def static(path: str) -> str:
    """Return the URL of a static file; it changes with the file's content."""
    return f"/static/{path}?v={sha256((STATIC / path).read_bytes()).hexdigest()[:12]}"


_ARXIV = re.compile(r"arXiv (\d{4}\.\d{5})")


def linked(source: str) -> Markup:
    """Return a source with links to its arXiv papers."""
    return Markup(  # noqa: S704  the text is escaped, and the inserted ids are digits
        _ARXIV.sub(r'<a href="https://arxiv.org/abs/\1" rel="noreferrer">arXiv \1</a>', str(escape(source)))
    )


environment = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
environment.filters.update(
    about=about,
    decimal=decimal,
    deviation=deviation,
    exact=exact,
    linked=linked,
    margin=margin,
    matrix=matrix,
    number=number,
    parameters=parameters,
    percent=percent,
    plain=plain,
    sentence=sentence,
    signed=signed,
    size=size,
    worded=worded,
)
environment.tests["contains"] = lambda text, part: part in text
environment.globals.update(
    components=COMPONENTS, math=math, phases=PHASES, static=static, verdicts=VERDICTS, version=VERSION
)


#: Attributes of elements that are addresses of this site. Templates spell them without the root path.
_ADDRESS = re.compile(
    r'((?:\s(?:href|src|action|formaction|data-[a-z-]+))=")(/(?!/)[^"]*")',
)


def compile_pages() -> None:
    """Compile the templates of all pages, which takes longer than to render one."""
    for name in environment.list_templates(extensions=("html",)):
        environment.get_template(name)


def rendered(name: str, context: Mapping[str, Any]) -> str:
    """Return the text of a template, whose addresses start with the request's root path."""
    text = environment.get_template(name).render(context)
    if ROOT_PATH.get():
        text = _ADDRESS.sub(lambda match: f"{match[1]}{from_root(match[2])}", text)
    return text


def page(name: str, status: int = 200, **context: Any) -> HTMLResponse:
    """Return a rendered page."""
    return HTMLResponse(rendered(name, context), status)


def error_page(status: int, title: str, detail: str) -> HTMLResponse:
    """Return a page that states an error."""
    return page("error.html", status, title=title, detail=detail)
