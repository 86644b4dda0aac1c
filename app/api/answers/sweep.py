"""Answer of `POST /api/v1/sweep`: one row per point of the grid, written as NDJSON or CSV."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from typing import Any, Literal

from app.api.answers.answer import Answer, described, described_as
from app.api.answers.memory import Memory
from app.http.problems import ProblemError, shortened
from calculator.common.names import PhaseName
from calculator.devices import Verdict
from calculator.estimation.answer import Estimate
from calculator.limit_search.sweep import Swept

#: The figures of a row, by the object of the estimate that contains them.
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

#: The same as columns of a table: part and name.
COLUMNS = tuple((part, name) for part, names in FIGURES.items() for name in names)

#: A block of rows is sent after this many seconds, or when it has this many characters.
BLOCK_SECONDS, BLOCK_CHARACTERS = 0.1, 1 << 16

Format = Literal["ndjson", "csv"]

MEDIA_TYPES: dict[Format, str] = {"ndjson": "application/x-ndjson", "csv": "text/csv"}


class SweptParameters(Answer):
    """Numbers of parameters."""

    base: int = described("Parameters of the base model.", 8_030_261_248)
    added: int = described("Parameters that the method adds.", 41_943_040)
    trainable: int = described("Parameters that are trained.", 41_943_040)
    total: int = described("Base and added parameters together.", 8_072_204_288)
    trainable_fraction: float = described("Trainable parameters divided by all parameters, 0 to 1.", 0.005196)


class SweptMemory(Answer):
    """The memory of an estimate without its tensors, in whole bytes."""

    peak_phase: PhaseName = described_as(Memory, "peak_phase")
    peak_operation: str = described_as(Memory, "peak_operation")
    peak_allocated_bytes: int = described_as(Memory, "peak_allocated_bytes")
    library_workspace_bytes: int = described_as(Memory, "library_workspace_bytes")
    peak_reserved_bytes: int = described_as(Memory, "peak_reserved_bytes")
    required_bytes: int = described_as(Memory, "required_bytes")


class SweptFit(Answer):
    """Whether the run fits the requested device."""

    usable_bytes: int = described("Bytes that a process can use on the device.", 25_250_758_656)
    verdict: Verdict = described("Whether the run fits; tight means that it depends on fragmentation.", "fits")
    headroom_bytes: int = described(
        "usable_bytes minus required_bytes; negative if the run does not fit.", 15_163_457_536
    )
    gpus_needed: int | None = described(
        "A lower bound on the number of such GPUs; null if no number is enough, because what is not sharded needs"
        " more than one has. More than one requires sharding: without it, each GPU needs all of the memory.",
        1,
    )


class SweepRow(Answer):
    """One point of the grid: a line of the response."""

    point: dict[str, Any] = described("The values of the grid's fields.", {"method.r": 8})
    parameters: SweptParameters | None = described(
        "Numbers of parameters; null if the point is refused.", {"added": 41_943_040}
    )
    memory: SweptMemory | None = described(
        "The memory; null if the point is refused.", {"required_bytes": 10_087_301_120}
    )
    fit: SweptFit | None = described("The verdict; null if the point is refused or has no device.", {"verdict": "fits"})
    problems: tuple[ProblemError, ...] = described("Why the point is refused; empty if it is not.", [])


def row(swept: Swept) -> dict[str, Any]:
    """Return a point as a JSON object, as `SweepRow` describes it."""
    columns: dict[str, Any] = {"point": {path: shortened(value) for path, value in swept.point.items()}}
    for part in FIGURES:
        columns[part] = _figures(swept.estimate, part)
    columns["problems"] = [{"loc": p.loc, "msg": p.msg, "input": shortened(p.input)} for p in swept.problems]
    return columns


def lines(paths: Iterable[str], rows: Iterable[dict[str, Any]], kind: Format) -> Iterator[str]:
    """Yield one line per row, computed on demand; CSV starts with a line of column names."""
    return _csv(paths, rows) if kind == "csv" else (f"{json.dumps(answered)}\n" for answered in rows)


def blocks(lines: Iterable[str], clock: Callable[[], float] = perf_counter) -> Iterator[str]:
    """Join lines into blocks that are worth sending; if a line raises, the lines before it are sent first."""
    block: list[str] = []
    length, since = 0, clock()
    try:
        for line in lines:
            block.append(line)
            length += len(line)
            if length >= BLOCK_CHARACTERS or clock() - since >= BLOCK_SECONDS:
                yield "".join(block)
                block, length, since = [], 0, clock()
    except Exception:
        yield "".join(block)
        raise
    if block:
        yield "".join(block)


def _figures(estimate: Estimate | None, part: str) -> dict[str, Any] | None:
    value = getattr(estimate, part) if estimate is not None else None
    return {name: getattr(value, name) for name in FIGURES[part]} if value is not None else None


def _csv(paths: Iterable[str], rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    yield _csv_line([*paths, *(f"{part}.{name}" for part, name in COLUMNS), "problems"])
    for cells in rows:
        figures = [cells[part][name] if cells[part] is not None else "" for part, name in COLUMNS]
        yield _csv_line([*map(cell, cells["point"].values()), *figures, problems_text(cells)])


def problems_text(cells: dict[str, Any]) -> str:
    """Return the problems of a row in one cell."""
    return "; ".join(f"{problem['loc']}: {problem['msg']}" for problem in cells["problems"])


def cell(value: Any) -> str:
    """Return a grid value as the text of one cell: text unchanged, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _csv_line(cells: Iterable[Any]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()
