"""An exported file, and the settings that it cannot express."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class NotExpressed:
    """A setting that a format cannot express: its path in the request, its value, and what the tool does instead."""

    loc: str
    value: Any
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A file that runs a request."""

    filename: str
    media_type: str
    content: str
    not_expressed: tuple[NotExpressed, ...] = ()
