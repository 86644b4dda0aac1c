"""The results that `validation/` commits, read from its folder: what others published, and what was measured by us.

This is the only place that reads them; where the folder is not there, an installed copy has no results to tell of.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from app.http.version import ROOT

if TYPE_CHECKING:
    from pathlib import Path

RESULTS = ROOT / "validation" / "results"
PUBLISHED = "published.json"
LESSON = "lesson.json"


@cache
def published(folder: Path = RESULTS) -> dict[str, Any] | None:
    """What `python -m validation published` wrote."""
    return _read(folder / PUBLISHED)


@cache
def lesson(folder: Path = RESULTS) -> dict[str, Any] | None:
    """What `python -m validation prove` wrote."""
    return _read(folder / LESSON)


@cache
def measured(folder: Path = RESULTS) -> tuple[dict[str, Any], ...]:
    """What `python -m validation measure` wrote on CUDA devices, a file a device."""
    files = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    return tuple(contents for contents in files if contents.get("environment", {}).get("driver"))


def _read(file: Path) -> dict[str, Any] | None:
    contents: dict[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return contents
