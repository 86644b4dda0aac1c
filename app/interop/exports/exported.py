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
class AdditionalFile:
    """A file that the exported one needs next to it, such as a configuration for several GPUs."""

    filename: str
    media_type: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A file that runs a request, and the files that it needs next to it."""

    filename: str
    media_type: str
    content: str
    not_expressed: tuple[NotExpressed, ...] = ()
    additional_files: tuple[AdditionalFile, ...] = ()
