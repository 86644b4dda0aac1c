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
        request: The request with the changes.
        run: The settings of the run with the changes, if these are settings of the run.
        saved_bytes: The saved required memory. For expandable segments, the saved minimum memory.
        verdict: The verdict on the changed run, by replay on the device of the error.
        ends: Whether it ends the error. None if the replay has no error without it either.
        statement, source: The drawback of the change, and its source.
        cost: The cost of a step relative to the present one.
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
