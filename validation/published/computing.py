"""The rows of published figures, computed by several processes and stored in a journal, so that a run can continue.

Replays of drawn histories take seconds to a minute for each figure of PEFT's method comparison. A journal's rows are
used again as long as the figure, the calculator and this package are the same.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import calculator
from validation.cli.progress import Progress
from validation.published.results import result
from validation.random_grid.journal import Journal
from validation.tracing.isolation import each_in_pool

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from validation.published.measurement import Measurement
    from validation.published.results import Result

#: Where an interrupted run finds its rows.
JOURNAL = Path("build/published.jsonl")

#: The folders with the figures themselves, which a journal compares one by one.
FIGURES = ("data", "rules")


def computed(measured: Sequence[Measurement], path: Path, processes: int) -> list[Result]:
    """Return the row of each figure. Rows that the journal at `path` lacks are computed and added to it."""
    journal = Journal(path, fingerprint())
    entries = [asdict(figure) for figure in measured]
    missing = [figure for figure, entry in zip(measured, entries, strict=True) if entry not in journal]
    progress = Progress(len(missing), "predicted")
    for figures, rows in _computed(_runs(missing), processes):
        for figure, row in zip(figures, rows, strict=True):
            journal.add(asdict(figure), {"row": row})
            progress.step()
    progress.close()
    stored = (journal.get(entry) for entry in entries)
    return [answer["row"] for answer in stored if answer is not None]


def fingerprint() -> str:
    """Return a hash of the code and the tables, other than the figures themselves, on which rows depend."""
    digest = hashlib.sha256()
    for package in (Path(str(calculator.__file__)).parent, Path(__file__).parent):
        for path in sorted(package.rglob("*")):
            if path.suffix in {".py", ".json"} and path.parent.name not in FIGURES:
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _runs(measured: Sequence[Measurement]) -> list[list[Measurement]]:
    """Return the figures by run: those of one run share its replays."""
    runs: dict[str, list[Measurement]] = {}
    for figure in measured:
        key = json.dumps([figure.source, figure.run.request, figure.run.protocol], sort_keys=True)
        runs.setdefault(key, []).append(figure)
    return [*runs.values()]


def _computed(runs: Sequence[list[Measurement]], processes: int) -> Iterator[tuple[list[Measurement], list[Result]]]:
    """Yield the figures of each run with their rows, as runs are done."""
    if processes == 1 or len(runs) <= 1:
        yield from ((run, _rows(run)) for run in runs)
        return
    with ProcessPoolExecutor(min(processes, len(runs)), get_context("spawn")) as pool:
        yield from each_in_pool(pool, _rows, runs)


def _rows(run: list[Measurement]) -> list[Result]:
    return [result(figure) for figure in run]
