"""Hold seeded random requests over all families and options against their traces, and show a table of errors."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError
from calculator.estimate.request import parse_request
from calculator.families import FAMILIES_WITH_FORWARD
from validation.cli.progress import Progress
from validation.comparison.compare import estimate
from validation.random_grid import table
from validation.random_grid.journal import Journal, fingerprint
from validation.random_grid.random_requests import random_request
from validation.random_grid.table import Case
from validation.tracing import snapshot
from validation.tracing.silence import quieten

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

#: Cases that a worker traces before another takes its place, so that what libraries keep is given back.
CASES_A_WORKER = 250


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--count", type=int, default=1000, help="how many requests are traced (1000)")
    parser.add_argument("--seed", type=int, default=0, help="what the requests are drawn from (0)")
    parser.add_argument("--families", nargs="+", choices=FAMILIES_WITH_FORWARD, metavar="FAMILY", help="only these")
    parser.add_argument("--only", metavar="FIELD", help="only requests that set this: training.autocast, ...")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1), help="traces at once (2)")
    parser.add_argument("--by", nargs="*", default=[], metavar="FIELD", help="more groups: training.attention, ...")
    parser.add_argument("--results", type=Path, default=Path("build/grid.jsonl"), help="where traces are kept")
    parser.add_argument("--keep", action="store_true", help="reuse traces that another state of validation/ made")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there too")


def run(told: argparse.Namespace) -> int:
    """Trace what is not traced yet and print the table; returns 1 where a target is missed."""
    quieten()
    cases = drawn(told.seed, told.count, told.families or FAMILIES_WITH_FORWARD, told.only)
    journal = Journal(told.results, None if told.keep else fingerprint())
    _trace([case for case in cases if case.worth_tracing and case.request not in journal], journal, told.processes)
    for case in cases:
        case.take(journal.get(case.request))
    text, missed = table.document(cases, told.by)
    print(text)
    if told.write:
        told.write.write_text(text + "\n", encoding="utf-8")
    return int(missed)


def drawn(seed: int, count: int, families: Sequence[str], only: str | None = None) -> list[Case]:
    """The first requests of a seed, so many that `count` are answered; those refused on the way are among them.

    `only` is a field that they must set.
    """
    cases: list[Case] = []
    answered = number = 0
    while answered < count:
        request = random_request(seed, number, families)
        if only is None or Case(number=number, request=request).sets(only):
            cases.append(estimated(number, request))
            answered += cases[-1].refusal is None
        number += 1
    return cases


def estimated(number: int, request: dict[str, Any]) -> Case:
    """A request with the calculator's answer, or its refusal."""
    case = Case(number=number, request=request)
    try:
        case.estimated = estimate(parse_request(request))
    except PlanError as error:
        case.refusal = str(error)
    return case


def _trace(cases: list[Case], journal: Journal, processes: int) -> None:
    progress = Progress(len(cases), "traced")
    for case, result in _results(cases, processes):
        journal.add(case.request, result)
        progress.step()
    progress.close()


def _results(cases: list[Case], processes: int) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Each case with its trace's result, as they come; workers are replaced now and then."""
    for start in range(0, len(cases), CASES_A_WORKER * processes):
        batch = cases[start : start + CASES_A_WORKER * processes]
        with ProcessPoolExecutor(min(processes, len(batch)), get_context("spawn"), initializer=quieten) as pool:
            waiting = {pool.submit(traced, case.request): case for case in batch}
            try:
                for done in as_completed(waiting):
                    yield waiting[done], done.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def traced(request: dict[str, Any]) -> dict[str, Any]:
    """What a journal keeps of a request's trace: its snapshot, or how the real stack refused it."""
    from validation.tracing.trace import trace  # noqa: PLC0415  (takes seconds to import)

    try:
        return {"traced": snapshot.to_json(snapshot.traced(trace(parse_request(request))))}
    except Exception as error:  # noqa: BLE001  whatever the real stack raises is its refusal
        return {"refused": f"{type(error).__name__}: {error}"[:300]}
