"""Problem documents (RFC 9457): every error that the API answers."""

from __future__ import annotations

import json
from http import HTTPStatus
from math import isfinite
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field
from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from calculator.common.errors import Problem

MEDIA_TYPE = "application/problem+json"

#: The most problems that one document lists.
MOST_ERRORS = 100

#: What each status means here. The keys of a problem's `type` are anchors on the documentation's page.
MEANINGS: dict[int, tuple[str, str]] = {
    400: ("undecodable-body", "The body is not strict JSON: not UTF-8, cut off, nested too deeply, or with NaN in it."),
    404: ("not-found", "Nothing is at this path, or the catalogue has no such entry."),
    405: ("method-not-allowed", "The path answers other methods, which the Allow header lists."),
    413: ("body-too-large", "The body is larger than 1 MiB."),
    415: ("unsupported-media-type", "The body's Content-Type is not application/json."),
    422: ("invalid-request", "The request has no answer; `errors` names each field and what is wrong with it."),
    500: ("internal-error", "A fault of this program's, which its log describes."),
}


class Refusal(Exception):  # noqa: N818  it refuses; the document is the error
    """A request that HTTP itself explains: a status, a sentence, and headers that go with it."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


class ProblemError(BaseModel):
    """One thing wrong with a request."""

    loc: str = Field(
        description="Where: a dotted path into the request; empty for the whole of it.",
        examples=["training.sequence_length"],
    )
    msg: str = Field(description="What is wrong, and what is admitted.", examples=["must be at least 2"])
    input: Any = Field(description="The value seen, shortened where it is long.", examples=[0])


class ProblemDocument(BaseModel):
    """An error as RFC 9457 describes it."""

    type: str = Field(
        description="The kind of problem: a reference to its description.", examples=["/docs#problem-invalid-request"]
    )
    title: str = Field(description="The status in words.", examples=[HTTPStatus(422).phrase])
    status: int = Field(description="The HTTP status.", examples=[422])
    detail: str = Field(
        description="What went wrong this time.", examples=["training.sequence_length: must be at least 2"]
    )
    errors: list[ProblemError] = Field(
        default=[],
        description=f"What is wrong with the input, field by field; at most {MOST_ERRORS}.",
        examples=[[{"loc": "training.sequence_length", "msg": "must be at least 2", "input": 0}]],
    )


def problem(
    status: int, detail: str, errors: Sequence[Problem] = (), headers: Mapping[str, str] | None = None
) -> Response:
    """The response that tells of an error."""
    document = {
        "type": f"/docs#problem-{MEANINGS[status][0]}" if status in MEANINGS else "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if errors:
        shown = errors[:MOST_ERRORS]
        document["errors"] = [{"loc": p.loc[:500], "msg": p.msg, "input": shortened(p.input)} for p in shown]
    return Response(json.dumps(document, allow_nan=False), status, headers, MEDIA_TYPE)


def invalid(problems: Sequence[Problem]) -> Response:
    """The 422 that lists problems of the input."""
    first = problems[0]
    more = f"; and {len(problems) - 1:,} more" if len(problems) > 1 else ""
    detail = f"{first.loc[:500]}: {first.msg}" if first.loc else first.msg
    return problem(422, f"{detail}{more}", problems)


def shortened(value: Any, levels: int = 3) -> Any:
    """A value of a request, cut to what helps to recognise it."""
    if isinstance(value, str):
        return value if len(value) <= 200 else f"{value[:200]}…"
    if isinstance(value, dict | list | tuple) and not levels:
        return "…"
    if isinstance(value, dict):
        return {key[:100]: shortened(part, levels - 1) for key, part in list(value.items())[:10]}
    if isinstance(value, list | tuple):
        return [shortened(part, levels - 1) for part in value[:10]]
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"a whole number of about {value.bit_length() * 0.30103:,.0f} digits"
    return value
