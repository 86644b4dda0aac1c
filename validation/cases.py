"""Trace every case of a file of expected figures and show where the trace differs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calculator.errors import PlanError
from calculator.request import parse_request
from validation.quiet import quieten

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from validation.trace import Trace


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", help="one case a line: id, tags, request, expected (with phases)")
    parser.add_argument("--tags", nargs="*", default=[], help="only cases with all of these tags")
    parser.add_argument("--ids", nargs="*", default=[], help="only these cases")
    parser.add_argument("--limit", type=int, default=0, help="at most so many cases")


def run(told: argparse.Namespace) -> int:
    """Trace each case and print a line of differences; returns 1 where one failed or differs by 0.01 %."""
    quieten()
    status = 0
    chosen = list(_chosen(told))
    for number, case in enumerate(chosen, 1):
        error, line = _judged(case)
        status |= error is None or abs(error) > 1e-4
        print(f"{number:>4}/{len(chosen)}  {case['id']:12} {line}", flush=True)
    return status


def _chosen(told: argparse.Namespace) -> Iterator[dict[str, Any]]:
    cases = map(json.loads, Path(told.file).read_text(encoding="utf-8").splitlines())
    kept = [
        case
        for case in cases
        if "phases" in case["expected"]
        and set(told.tags) <= set(case["tags"])
        and case["id"] in (told.ids or [case["id"]])
    ]
    yield from kept[: told.limit or None]


def _judged(case: dict[str, Any]) -> tuple[float | None, str]:
    from validation.trace import trace  # noqa: PLC0415  (takes seconds to import)

    start = time.perf_counter()
    try:
        traced = trace(parse_request(case["request"]))
    except (PlanError, NotImplementedError, RuntimeError, ValueError) as error:
        return None, f"failed: {type(error).__name__}: {str(error)[:200]}"
    expected = case["expected"]
    error = traced.peak_allocated_bytes / expected["peak_allocated_bytes"] - 1
    told = differences(traced, expected)
    return error, f"{time.perf_counter() - start:6.1f} s  {error:+.2e}  {told or 'to the byte'}"


def differences(traced: Trace, expected: dict[str, Any]) -> dict[str, int]:
    """Traced less expected, of every figure where they differ."""
    return {
        f"{group}.{name}": getattr(traced, group)[name] - value
        for group in ("parameters", "static", "phases")
        for name, value in expected[group].items()
        if getattr(traced, group)[name] != value
    }
