"""The operations that allocate memory in steps of the families that the calculator models.

Estimates of these steps equal their traces to the byte, so the emulations cover what these operations allocate on CUDA.
`operations.json` lists them. This command traces random requests of every family again, and prints the file.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError
from calculator.estimate.request import parse_request
from calculator.families import FAMILIES_WITH_FORWARD
from validation.cli.progress import Progress
from validation.random_grid.random_requests import random_request
from validation.tracing.silence import silence_libraries

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from validation.tracing.ledger import Storage

FILE = "operations.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--count", type=int, default=3, help="how many requests of each family are traced (3)")
    parser.add_argument("--seed", type=int, default=0, help="the random seed (0)")


def run(args: argparse.Namespace) -> int:
    """Trace the requests and print the file."""
    silence_libraries()
    found: set[str] = set()
    progress = Progress(len(FAMILIES_WITH_FORWARD), "families")
    for family in FAMILIES_WITH_FORWARD:
        found |= _of_family(family, args.seed, args.count)
        progress.step()
    progress.close()
    releases = {name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes")}
    command = f"python -m validation operations --count {args.count} --seed {args.seed}"
    document = {"command": command, "versions": releases, "operations": sorted(found)}
    print(json.dumps(document, indent=2))
    return 0


def _of_family(family: str, seed: int, count: int) -> set[str]:
    """The operations in traces of a family's random requests; requests that the libraries refuse do not count."""
    from validation.tracing.trace import trace  # noqa: PLC0415  (takes seconds to import)

    found: set[str] = set()
    number = traced = 0
    while traced < count and number < 8 * count:
        request = random_request(seed, number, [family])
        request["training"]["sequence_length"] = min(request["training"]["sequence_length"], 256)
        number += 1
        try:
            found |= allocating(trace(parse_request(request)).ledger.storages)
        except (PlanError, RuntimeError, ValueError):
            continue
        traced += 1
    return found


@cache
def validated() -> frozenset[str]:
    """The operations of the file."""
    listed: dict[str, Any] = json.loads(files(__package__).joinpath(FILE).read_text(encoding="utf-8"))
    return frozenset(listed["operations"])


def allocating(storages: Iterable[Storage]) -> set[str]:
    """The operations that allocated storages in a step; an emulated kernel and its scratch are one operation."""
    return {each.op.partition("<")[0].partition("/")[0] for each in storages if each.moment != "static"}


def unchecked(storages: Iterable[Storage]) -> tuple[str, ...]:
    """The operations of a step that are in no step of a modelled family, as PyTorch names them, sorted."""
    return tuple(sorted(name.removeprefix("aten.") for name in allocating(storages) - validated()))
