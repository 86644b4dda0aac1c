"""Trace every case of a file of expected figures, with its trainer if it has one, and show the differences.

Prints one line per case: its id, the seconds it took, the peak's relative error, and each figure that differs, in bytes
(traced minus expected). With --results, cases in that file are not traced again.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validation.cli.files import read_lines
from validation.cli.progress import Progress
from validation.comparison.record import recorded
from validation.tracing.isolation import in_new_process
from validation.tracing.silence import silence_libraries

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

#: A case fails if its peak's relative error is larger than this.
TOLERANCE = 1e-4


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", help="JSON lines, one case each: id, tags, request, expected")
    parser.add_argument("--tags", nargs="*", default=[], help="only cases with all of these tags")
    parser.add_argument("--ids", nargs="*", default=[], help="only these cases")
    parser.add_argument("--limit", type=int, default=0, help="the most cases to trace")
    parser.add_argument(
        "--results", metavar="FILE", help="append each result to this file as a line of JSON, and resume from it"
    )


def run(args: argparse.Namespace) -> int:
    """Trace each case and print its line; returns 1 if a case failed or its peak is off by more than 0.01 %."""
    silence_libraries()
    results = Path(args.results) if args.results else None
    results_by_id = {row["id"]: row for row in _rows(results)} if results else {}
    cases = _selected(args)
    status = 0
    progress = Progress(len(cases), "cases")
    for case in cases:
        row = results_by_id.get(case["id"]) or result(case)
        if results and case["id"] not in results_by_id:
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        status |= row["error"] is None or abs(row["error"]) > TOLERANCE
        progress.close()
        print(line(row), flush=True)
        progress.step()
    progress.close()
    return status


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, path.read_text(encoding="utf-8").splitlines()) if path.exists() else iter(())


def _selected(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the selected cases that expect a step's figures."""
    cases = [
        case
        for case in read_lines(args.file)
        if "phases" in case["expected"]
        and set(args.tags) <= set(case["tags"])
        and case["id"] in (args.ids or [case["id"]])
    ]
    return cases[: args.limit or None]


def result(case: dict[str, Any]) -> dict[str, Any]:
    """Trace one case: its `id`, `seconds`, the peak's relative `error` and `differences`, or the reason it `failed`."""
    start = time.perf_counter()
    has_trainer = case["request"].get("training", {}).get("trainer") is not None
    traced = in_new_process(recorded, case) if has_trainer else recorded(case)
    if "refused" in traced:
        return {"id": case["id"], "error": None, "failed": traced["refused"]}
    expected = case["expected"]
    return {
        "id": case["id"],
        "seconds": round(time.perf_counter() - start, 1),
        "error": traced["peak_allocated_bytes"] / expected["peak_allocated_bytes"] - 1,
        "differences": differences(traced, expected),
    }


def differences(traced: dict[str, Any], expected: dict[str, Any]) -> dict[str, int]:
    """Traced minus expected, for every figure that differs."""
    return {
        f"{group}.{name}": traced[group][name] - value
        for group in ("parameters", "static", "phases")
        for name, value in expected[group].items()
        if traced[group][name] != value
    }


def line(row: dict[str, Any]) -> str:
    """Return a result as a line of text."""
    if row["error"] is None:
        return f"{row['id']:14} failed: {row['failed']}"
    changes = ", ".join(f"{name} {value:+,}" for name, value in row["differences"].items())
    return f"{row['id']:14} {row['seconds']:6.1f} s  {row['error']:+.2e}  {changes or 'equal to the byte'}"
