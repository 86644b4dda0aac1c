"""Compare the phases of whole runs with their traces in tests/cases/run, and print a table of the results.

python -m validation phases --write     # writes it into docs/accuracy/whole_run.md
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calculator.run.request import parse_run
from calculator.run.run import whole_run

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

_ROOT = Path(__file__).parents[2]
CASES, PAGE = _ROOT / "tests" / "cases" / "run", _ROOT / "docs" / "accuracy" / "whole_run.md"

#: The lines of the page around the table.
BEGIN, END = "<!-- python -m validation phases --write -->", "<!-- end of phases -->"

#: The phases, by the field of a case that has the traced bytes.
LABELS = {
    "evaluation": "evaluation, GPU",
    "generation": "generation in evaluation, GPU",
    "merge": "merge, GPU",
    "load": "load, GPU",
    "checkpoint": "checkpoint, GPU: gathering a full state dict",
}

#: A phase, and how its run is sharded.
Group = tuple[str, str]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--write", action="store_true", help="write the table into docs/accuracy/whole_run.md")


def run(args: argparse.Namespace) -> int:
    """Compare phases with their traces, and print or write the table. Return 1 if a phase differs from its trace."""
    results = [(group, predicted == traced) for group, predicted, traced in compared()]
    table = "\n".join(
        lines(Counter(group for group, _ in results), Counter(group for group, is_equal in results if is_equal))
    )
    if args.write:
        before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    else:
        print(table)
    return int(not all(is_equal for _, is_equal in results))


def lines(cases: Counter[Group], equal: Counter[Group]) -> Iterator[str]:
    """Yield the table: the cases of each group, and those whose bytes are the trace's."""
    yield "| phase | sharding | traced cases | equal to the byte |"
    yield "|---|---|---|---|"
    for (phase, sharding), count in cases.items():
        yield f"| {LABELS[phase]} | {sharding} | {count} | {equal[phase, sharding]} |"


def groups() -> Iterator[tuple[Group, dict[str, Any]]]:
    """Yield each phase of each case, with the case."""
    for case in (*_read("evaluation"), *_read("merge")):
        yield (case["phase"], _sharding(case)), case
    for phase, field in (("load", "load_bytes"), ("checkpoint", "gathered_bytes")):
        yield from (((phase, _sharding(case)), case) for case in _read("loading") if case[field])


def compared() -> Iterator[tuple[Group, int, int]]:
    """Yield each phase with its predicted and its traced bytes; of some phases, what they add to what they find."""
    for (phase, sharding), case in groups():
        run_phase = next(ran for ran in whole_run(parse_run(case["request"])).phases if ran.name == phase)
        added = run_phase.gpu_bytes - run_phase.resident_bytes
        predicted, traced = {
            "evaluation": (run_phase.gpu_bytes, case.get("peak_bytes")),
            "generation": (run_phase.gpu_bytes, case.get("peak_bytes")),
            "merge": (added, case.get("peak_bytes")),
            "load": (run_phase.gpu_bytes, case.get("load_bytes")),
            "checkpoint": (added, case.get("gathered_bytes")),
        }[phase]
        yield (phase, sharding), predicted, int(traced or 0)


def _read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CASES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def _sharding(case: dict[str, Any]) -> str:
    name: str = case["request"].get("device", {}).get("sharding", "none")
    return "one GPU" if name == "none" else name
