"""What an export gives: a file's text, and what the format could not take over from the plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class NotExpressed:
    """A setting that a format can't take: its path in the request, its value, and what the tool does instead."""

    loc: str
    value: Any
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A file that runs a plan."""

    filename: str
    media_type: str
    content: str
    not_expressed: tuple[NotExpressed, ...] = ()
