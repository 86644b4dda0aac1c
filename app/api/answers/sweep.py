"""A sweep's rows as they travel: the figures of an estimate without its storages, as NDJSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from app.http.problems import shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from calculator.estimate.answer import Estimate
    from calculator.limits.sweep import Swept

#: The figures of a row by the answer's objects, named as in an estimate.
FIGURES: dict[str, tuple[str, ...]] = {
    "parameters": ("base", "added", "trainable", "total", "trainable_fraction"),
    "memory": (
        "peak_phase",
        "peak_operation",
        "peak_allocated_bytes",
        "library_workspace_bytes",
        "peak_reserved_bytes",
        "required_bytes",
    ),
    "fit": ("usable_bytes", "verdict", "headroom_bytes", "gpus_needed"),
}

#: How long rows are gathered before they are sent, in seconds, and how much of them, in characters.
GATHERED_SECONDS, GATHERED_CHARACTERS = 0.1, 1 << 16

Format = Literal["ndjson", "csv"]

MEDIA_TYPES: dict[Format, str] = {"ndjson": "application/x-ndjson", "csv": "text/csv"}


def row(swept: Swept) -> dict[str, Any]:
    """A point as an object: its values, its figures or null, and why it is refused."""
    answer: dict[str, Any] = {"point": {path: shortened(value) for path, value in swept.point.items()}}
    for part in FIGURES:
        answer[part] = _figures(swept.estimate, part)
    answer["problems"] = [{"loc": p.loc, "msg": p.msg, "input": shortened(p.input)} for p in swept.problems]
    return answer


def lines(paths: Iterable[str], points: Iterable[Swept], kind: Format) -> Iterator[str]:
    """A grid's points as text, each when it is asked for; CSV begins with the names of its columns."""
    return _csv(paths, points) if kind == "csv" else (f"{json.dumps(row(swept))}\n" for swept in points)


def gathered(lines: Iterable[str], clock: Callable[[], float] = perf_counter) -> Iterator[str]:
    """Lines in blocks that are worth sending; where a line fails, those before it are sent first."""
    block: list[str] = []
    length, since = 0, clock()
    try:
        for line in lines:
            block.append(line)
            length += len(line)
            if length >= GATHERED_CHARACTERS or clock() - since >= GATHERED_SECONDS:
                yield "".join(block)
                block, length, since = [], 0, clock()
    except Exception:
        yield "".join(block)
        raise
    if block:
        yield "".join(block)


def _figures(plan: Estimate | None, part: str) -> dict[str, Any] | None:
    whole = getattr(plan, part) if plan is not None else None
    return {name: getattr(whole, name) for name in FIGURES[part]} if whole is not None else None


def _csv(paths: Iterable[str], points: Iterable[Swept]) -> Iterator[str]:
    columns = [(part, name) for part, names in FIGURES.items() for name in names]
    yield _comma_separated([*paths, *(f"{part}.{name}" for part, name in columns), "problems"])
    for swept in points:
        answer = row(swept)
        figures = [answer[part][name] if answer[part] is not None else "" for part, name in columns]
        problems = "; ".join(f"{problem['loc']}: {problem['msg']}" for problem in answer["problems"])
        yield _comma_separated([*map(cell, answer["point"].values()), *figures, problems])


def cell(value: Any) -> str:
    """A value of the grid in one cell: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _comma_separated(cells: Iterable[Any]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()
