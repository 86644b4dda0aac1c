"""A single change to a run that ended out of memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.devices import Verdict
    from calculator.estimation.request import Request
    from calculator.inputs.run import RunSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of a run.

    Attributes:
        changes: The settings, by their paths in the request.
        request: The request with them.
        run: The settings of the run with them, if they are some of these.
        saved_bytes: What it saves of the required memory; of expandable segments, of the least memory.
        verdict: How the changed run goes by replay where the error occurred.
        ends: Whether it ends the error; None where the run does not end by replay without it either.
        statement, source: What it gives up.
        cost: The cost of a step over that of the present one.
    """

    changes: Mapping[str, Any]
    request: Request
    saved_bytes: int
    verdict: Verdict
    ends: bool | None
    statement: str
    source: str
    cost: float
    run: RunSettings | None = None
