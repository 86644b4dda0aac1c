"""A checked file: its request, the estimate, and an outcome."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from app.http.bodies import parse_json
from app.interop.imports import read
from app.presentation import verdict
from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.estimation.answer import Estimate

#: A verdict; `estimated` without a device, and `invalid` if the file is no request or its request is refused.
Outcome = Literal["fits", "tight", "does_not_fit", "estimated", "invalid"]

#: A request body.
Body = dict[str, Any]

#: Fields of a request that a tool's file does not have.
_REQUEST_FIELDS = {"method", "training", "device"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The outcome of one file."""

    path: str
    outcome: Outcome
    #: Sentences: the verdict and its reason, or what is wrong.
    sentences: tuple[str, ...]
    #: Features of the file that the request does not reproduce: the figures are for another run.
    warnings: tuple[str, ...] = ()
    estimate: Estimate | None = None


def check(path: str, text: str, changed: Callable[[Body], Body]) -> Checked:
    """Check the text of a request, a tool's file, or a script. `changed` returns its request with overrides.

    A refusal is the outcome `invalid`.
    """
    try:
        body, warnings = _body(text)
        answer = estimate(parse_request(changed(body)))
    except PlanError as error:
        lines = [problem.sentence for problem in error.problems]
        return Checked(path=path, outcome="invalid", sentences=tuple(lines))
    return Checked(
        path=path,
        outcome=answer.fit.verdict.value if answer.fit is not None else "estimated",
        sentences=(verdict.sentence(answer), verdict.why(answer)),
        warnings=warnings,
        estimate=answer,
    )


def _body(text: str) -> tuple[Body, tuple[str, ...]]:
    """Return the request of a file, and warnings about the import."""
    request_in_text = _own_request(text)
    if request_in_text is not None:
        return request_in_text, ()
    imported = read(text)
    inexact = [f"{entry.key}: {json.dumps(entry.value)}: {entry.why}" for entry in imported.not_understood]
    return imported.request, (*imported.warnings, *inexact)


def _own_request(text: str) -> Body | None:
    """Return the content of a file that is a request of the API. None if it is another file."""
    try:
        content = parse_json(text.encode(), "the file", "")
    except PlanError:
        return None
    return content if isinstance(content, dict) and content.keys() & _REQUEST_FIELDS else None
