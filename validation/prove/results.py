"""The results file, which the lesson's page shows: the environment, and each experiment's findings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The committed results file.
RESULTS = Path(__file__).parent.parent / "results" / "lesson.json"

#: The file's format, which schema.json describes.
FORMAT = 1

#: Fields of an environment that must be equal for results in one file.
IDENTITY = ("device", "gpu", "cpu", "threads", "versions", "python")

Result = dict[str, Any]


class AnotherEnvironmentError(Exception):
    """A results file is of another machine or other versions."""


def recorded(path: Path, environment: dict[str, Any], *, quick: bool) -> list[Result]:
    """Return the experiments of an existing file, which must be of the same environment and version (quick or not)."""
    if not path.exists():
        return []
    file = json.loads(path.read_text(encoding="utf-8"))
    differ = [name for name in IDENTITY if file["environment"].get(name) != environment[name]]
    differ += ["format"] * (file["format"] != FORMAT) + ["quick"] * (file["quick"] != quick)
    if differ:
        message = (
            f"--write {path}: its environment differs ({', '.join(differ)}): run every experiment, or name another file"
        )
        raise AnotherEnvironmentError(message)
    experiments: list[Result] = file["experiments"]
    return experiments


def document(
    environment: dict[str, Any], experiments: Iterable[Result], order: Iterable[str], *, quick: bool
) -> dict[str, Any]:
    """Return the content of the results file; of two results of an experiment the later one is used."""
    latest = {experiment["name"]: experiment for experiment in experiments}
    ordered = [latest[name] for name in order if name in latest]
    return {"format": FORMAT, "quick": quick, "environment": environment, "experiments": ordered}


def write(results: dict[str, Any], path: Path) -> None:
    """Write the results atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(f"{_formatted(results)}\n", encoding="utf-8")
    part.replace(path)


def _formatted(value: Any, indent: str = "") -> str:
    """JSON in which only values that fit a line are on one, so that a diff shows the figures that change."""
    short = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(short) <= 120 or not isinstance(value, dict | list):
        return short
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return short
    inner = f"{indent} "
    if isinstance(value, dict):
        lines = [f"{json.dumps(key)}: {_formatted(item, inner)}" for key, item in value.items()]
    else:
        lines = [_formatted(item, inner) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    body = f",\n{inner}".join(lines)
    return f"{opening}\n{inner}{body}\n{indent}{closing}"
