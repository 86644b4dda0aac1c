"""Readers of the committed results of `validation/`. An installed copy without that folder has no results."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from app.resources import RESULTS

if TYPE_CHECKING:
    from pathlib import Path

PUBLISHED = "published.json"
LESSON = "lesson.json"
MODEL_TYPES = "model_types.json"


@cache
def published(folder: Path = RESULTS) -> dict[str, Any] | None:
    """Return the results of `python -m validation published`."""
    return _read(folder / PUBLISHED)


@cache
def lesson(folder: Path = RESULTS) -> dict[str, Any] | None:
    """Return the results of `python -m validation prove`."""
    return _read(folder / LESSON)


@cache
def model_types(folder: Path = RESULTS) -> dict[str, Any] | None:
    """Return the results of `python -m validation census`."""
    return _read(folder / MODEL_TYPES)


@cache
def measured(folder: Path = RESULTS) -> tuple[dict[str, Any], ...]:
    """Return the results of `python -m validation measure`, one file per CUDA device."""
    files = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    return tuple(contents for contents in files if contents.get("environment", {}).get("driver"))


def _read(file: Path) -> dict[str, Any] | None:
    contents: dict[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return contents
