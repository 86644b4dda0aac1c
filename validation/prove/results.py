"""The results file, which the page of the lesson shows: the environment, and each experiment's findings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Where results are committed.
RESULTS = Path(__file__).parent.parent / "results" / "lesson.json"

#: The file's format, which schema.json describes.
FORMAT = 1

#: What of an environment must be the same for results to stand in one file.
IDENTITY = ("device", "gpu", "cpu", "threads", "versions", "python")

Result = dict[str, Any]


class AnotherEnvironmentError(Exception):
    """A results file was made on another machine or with other versions."""


def before(path: Path, environment: dict[str, Any], *, quick: bool) -> list[Result]:
    """The experiments that a file has already, of the same environment and form."""
    if not path.exists():
        return []
    there = json.loads(path.read_text(encoding="utf-8"))
    differ = [name for name in IDENTITY if there["environment"].get(name) != environment[name]]
    differ += ["format"] * (there["format"] != FORMAT) + ["quick"] * (there["quick"] != quick)
    if differ:
        ways_out = "prove every experiment, or name another file"
        message = f"--write {path}: it was made otherwise ({', '.join(differ)} differ): {ways_out}"
        raise AnotherEnvironmentError(message)
    experiments: list[Result] = there["experiments"]
    return experiments


def document(
    environment: dict[str, Any], experiments: Iterable[Result], order: Iterable[str], *, quick: bool
) -> dict[str, Any]:
    """Everything that the results file says; of two results of an experiment the later counts."""
    latest = {told["name"]: told for told in experiments}
    found = [latest[name] for name in order if name in latest]
    return {"format": FORMAT, "quick": quick, "environment": environment, "experiments": found}


def write(told: dict[str, Any], path: Path) -> None:
    """Write results at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(f"{_laid_out(told)}\n", encoding="utf-8")
    part.replace(path)


def _laid_out(value: Any, indent: str = "") -> str:
    """JSON that opens what is longer than a line, so that a change shows as the figures that it changes."""
    short = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(short) <= 120 or not isinstance(value, dict | list):
        return short
    if isinstance(value, list) and not any(isinstance(each, dict | list) for each in value):
        return short
    inner = f"{indent} "
    if isinstance(value, dict):
        lines = [f"{json.dumps(key)}: {_laid_out(each, inner)}" for key, each in value.items()]
    else:
        lines = [_laid_out(each, inner) for each in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    body = f",\n{inner}".join(lines)
    return f"{opening}\n{inner}{body}\n{indent}{closing}"
