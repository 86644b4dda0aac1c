"""What an import gives: a request, and what of the file it does not hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class NotUnderstood:
    """A key of the file that the request does not hold as it stands there: its value, and what is taken instead."""

    key: str
    value: Any
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A file as a request's body; `without_effect` names keys that a step's memory does not depend on."""

    format: str
    request: dict[str, Any]
    not_understood: tuple[NotUnderstood, ...]
    without_effect: tuple[str, ...]
    #: What the file switches on and the request cannot express: the figures are of another run.
    warnings: tuple[str, ...] = ()
