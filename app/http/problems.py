"""Problem documents (RFC 9457): the body of every error response of the API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from math import isfinite
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field
from starlette.responses import Response

from app.http.root_path import from_root

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.common.errors import Problem

MEDIA_TYPE = "application/problem+json"

#: The message for an error in Headroom itself.
INTERNAL_ERROR = "an error in Headroom itself; the server's log has the details"

#: The largest number of errors that one document lists.
MOST_ERRORS = 100

#: The key and the meaning of each status. The keys end a problem's `type` and are anchors on the documentation page.
MEANINGS: dict[int, tuple[str, str]] = {
    400: (
        "undecodable-body",
        "The body is not strict JSON: it is not UTF-8, is truncated, is nested too deeply, or contains NaN.",
    ),
    404: ("not-found", "There is nothing at this path, or the catalogue has no such entry."),
    405: (
        "method-not-allowed",
        "The path does not support this method. The Allow header lists the methods that it supports.",
    ),
    413: ("body-too-large", "The body is larger than 1 MiB, or larger than 4 MiB for an import."),
    415: ("unsupported-media-type", "The body's Content-Type is not application/json."),
    422: (
        "invalid-request",
        "The request is invalid, or the libraries refuse the combination. The errors name each field and the reason.",
    ),
    503: (
        "busy",
        "The server answers as many requests or traces as it accepts. The Retry-After header states when to try again.",
    ),
    500: ("internal-error", "An error in Headroom itself. The server's log has the details."),
}


class HTTPProblem(Exception):  # noqa: N818  the document is the error
    """An error response: a status, a sentence, and extra headers."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


class ProblemError(BaseModel):
    """One thing wrong with a request."""

    loc: str = Field(
        description="The field's dotted path in the request; empty for the whole request.",
        examples=["training.sequence_length"],
    )
    msg: str = Field(description="What is wrong, and what is allowed.", examples=["must be at least 2"])
    input: Any = Field(description="The value of the field; long values are shortened.", examples=[0])


class ProblemDocument(BaseModel):
    """An error, as RFC 9457 defines it."""

    type: str = Field(
        description="The kind of problem: a link to its description.", examples=["/docs#problem-invalid-request"]
    )
    title: str = Field(description="The name of the status.", examples=[HTTPStatus(422).phrase])
    status: int = Field(description="The HTTP status.", examples=[422])
    detail: str = Field(
        description="What is wrong with this request.", examples=["training.sequence_length: must be at least 2"]
    )
    errors: list[ProblemError] = Field(
        default=[],
        description=f"The errors, field by field; at most {MOST_ERRORS}.",
        examples=[[{"loc": "training.sequence_length", "msg": "must be at least 2", "input": 0}]],
    )


def problem_response(
    status: int, detail: str, errors: Sequence[Problem] = (), headers: Mapping[str, str] | None = None
) -> Response:
    """Return the response that carries a problem document."""
    document = {
        "type": from_root(f"/docs#problem-{MEANINGS[status][0]}") if status in MEANINGS else "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if errors:
        shown = errors[:MOST_ERRORS]
        document["errors"] = [{"loc": p.loc[:500], "msg": p.msg, "input": shortened(p.input)} for p in shown]
    return Response(json.dumps(document, allow_nan=False), status, headers, MEDIA_TYPE)


def invalid_response(problems: Sequence[Problem]) -> Response:
    """Return the 422 response that lists the problems of a request."""
    first = problems[0]
    others = len(problems) - 1
    more = f"; and {others:,} more {'error' if others == 1 else 'errors'}" if others else ""
    detail = replace(first, loc=first.loc[:500]).sentence
    return problem_response(422, f"{detail}{more}", problems)


def shortened(value: Any, levels: int = 3) -> Any:
    """Shorten a value of a request to what is needed to recognize it."""
    if isinstance(value, str):
        return value if len(value) <= 200 else f"{value[:200]}…"
    if isinstance(value, Mapping | list | tuple) and not levels:
        return "…"
    if isinstance(value, Mapping):
        return {key[:100]: shortened(part, levels - 1) for key, part in list(value.items())[:10]}
    if isinstance(value, list | tuple):
        return [shortened(part, levels - 1) for part in value[:10]]
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"a whole number of about {value.bit_length() * 0.30103:,.0f} digits"
    return value
