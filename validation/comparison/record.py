"""Trace requests with a trainer, each in a process of its own, and write them as cases with expected figures.

Reads the requests of a file of JSON lines, or draws random ones. A case that a library refuses is left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from calculator.common.errors import refusal
from validation.cli.files import read_lines
from validation.cli.progress import Progress
from validation.random_grid.trainer_requests import random_trainer_request
from validation.reference.trainers.recipe import TrainerName
from validation.tracing.isolation import each_alone

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from validation.tracing.trace import Trace


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("output", type=Path, help="the file to which each case is appended as a line of JSON")
    parser.add_argument("--requests", metavar="FILE", help="JSON lines with id, tags and request")
    parser.add_argument("--draw", type=int, default=0, metavar="N", help="draw N random requests")
    parser.add_argument("--seed", type=int, default=0, help="the random seed (0)")
    parser.add_argument("--trainers", nargs="+", choices=get_args(TrainerName), default=list(get_args(TrainerName)))
    parser.add_argument("--processes", type=int, default=2, help="parallel traces (2)")


def run(args: argparse.Namespace) -> int:
    """Trace each case and write it; returns 1 if a case is refused."""
    if args.requests is None and not args.draw:
        raise refusal("--requests", "give a file of requests, or the number of random ones with --draw")
    cases = [*_requests(args.requests), *_drawn(args.draw, args.seed, args.trainers)]
    progress = Progress(len(cases), "traced")
    refused = 0
    for case, expected in each_alone(recorded, cases, args.processes):
        progress.step()
        if "refused" in expected:
            print(f"{case['id']}: {expected['refused']}", flush=True)
            refused += 1
            continue
        with args.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**case, "expected": expected}) + "\n")
    progress.close()
    return int(refused > 0)


def _requests(path: str | None) -> Iterator[dict[str, Any]]:
    """Yield the cases of a file, without their expected figures."""
    for case in read_lines(path) if path else ():
        yield {name: case[name] for name in ("id", "tags", "request")}


def _drawn(count: int, seed: int, trainers: list[TrainerName]) -> Iterator[dict[str, Any]]:
    for number in range(count):
        request = random_trainer_request(seed, number, trainers)
        training = request["training"]
        tags = [f"trainer:{training['trainer']}", f"method:{request['method']['name']}", f"seed:{seed}"]
        yield {"id": f"{training['trainer']}-{seed}-{number}", "tags": tags, "request": request}


def recorded(case: dict[str, Any]) -> dict[str, Any]:
    """Return the expected figures of a case, or why it is `refused`."""
    from validation.comparison.show import traced_body  # noqa: PLC0415  (takes seconds to import)

    try:
        return expected(traced_body(case["request"]))
    except Exception as error:  # noqa: BLE001  any error of the real stack is its refusal
        return {"refused": f"{type(error).__name__}: {str(error)[:300]}"}


def expected(traced: Trace) -> dict[str, Any]:
    """Return a trace's figures as a case states them."""
    return {
        "parameters": traced.parameters,
        "static": traced.static,
        "phases": traced.phases,
        "peak_phase": traced.peak_phase,
        "peak_allocated_bytes": traced.peak_allocated_bytes,
        "peak_op": traced.peak_op,
    }
