"""The request of a file, and the keys of the file that it does not reproduce."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class NotUnderstood:
    """A key that the request does not reproduce exactly: its value, and what the request uses instead."""

    key: str
    value: Any
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A request body, and the keys of the file that it does not reproduce."""

    format: str
    request: dict[str, Any]
    not_understood: tuple[NotUnderstood, ...]
    #: Keys that do not change the memory of a step.
    without_effect: tuple[str, ...]
    #: Features that the file switches on and the request cannot express: the figures are for another run.
    warnings: tuple[str, ...] = ()
    #: The tool that trains: one of `app.tools` that is not the request's trainer itself, or empty.
    tool: str = ""
