"""Compare the two engines on every family that the calculator models: random requests of each.

Prints a line for each request: whether parameters, phases, components, saved bytes and reserved memory are equal.
Parameters and phases must be equal to the byte. With --write, the operations that allocate in the equal steps are
added to the validated ones, `operations.json`, but for those whose kernels allocate workspaces.
"""

from __future__ import annotations

import json
from argparse import ArgumentTypeError
from collections import Counter
from importlib.metadata import version
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.estimation.traced.answer import traced_estimate
from calculator.families import FAMILIES_WITH_FORWARD
from validation.random_grid.random_requests import random_request
from validation.traced.operations import FILE, WITH_WORKSPACE
from validation.tracing.silence import silence_libraries

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import Request
    from calculator.estimation.traced.document import TraceDocument

#: Figures that must be equal to the byte.
ALLOCATED = {"parameters", "phases"}

#: The libraries whose releases the file states.
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")

#: The most tokens of a sequence: the comparison is of bytes, and short steps are traced sooner.
LONGEST = 256


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("families", nargs="*", metavar="FAMILY", type=_family, help="only these")
    parser.add_argument("--seed", type=int, default=0, help="the random seed (0)")
    parser.add_argument("--count", type=int, default=1, help="how many requests of each family are traced (1)")
    parser.add_argument("--write", action="store_true", help=f"write {FILE}")


def _family(name: str) -> str:
    if name not in FAMILIES_WITH_FORWARD:
        raise ArgumentTypeError(f"{name!r} is not a family; choose from {', '.join(FAMILIES_WITH_FORWARD)}")
    return name


def run(args: argparse.Namespace) -> int:
    """Compare and print; returns 1 if parameters or phases differ."""
    silence_libraries()
    validated: set[str] = set()
    differ = 0
    for family in args.families or FAMILIES_WITH_FORWARD:
        for request, calculated in islice(answered(family, args.seed), args.count):
            document = traced(request)
            errors = dict(differences(calculated, traced_estimate(request, document)))
            equal = not errors.keys() & ALLOCATED
            validated.update(document.operations if equal else ())
            differ += not equal
            print(f"{family:24} {request.method.name:10} {json.dumps(errors) if errors else 'equal'}", flush=True)
    if args.write:
        _write(sorted(validated), f"python -m validation engines --write --count {args.count} --seed {args.seed}")
    return int(differ > 0)


def _write(operations: list[str], command: str) -> None:
    releases = {name: version(name) for name in LIBRARIES}
    path = Path(__file__).with_name(FILE)
    before = json.loads(path.read_text(encoding="utf-8"))
    document = {
        "commands": [*dict.fromkeys((*before["commands"], command))],
        "versions": releases,
        "operations": sorted({*before["operations"], *operations} - WITH_WORKSPACE),
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def answered(family: str, seed: int) -> Iterator[tuple[Request, Estimate]]:
    """Yield random requests of a family that the calculator answers, with its answers."""
    for number in count(crc32(family.encode())):  # each family has settings of its own
        body = random_request(seed, number, [family])
        body["training"]["sequence_length"] = min(body["training"]["sequence_length"], LONGEST)
        try:
            request = parse_request(body)
            yield request, estimate(request)
        except PlanError:
            continue


def traced(request: Request) -> TraceDocument:
    """Return the trace of a request, in this process."""
    from validation.traced.engine import answer  # noqa: PLC0415  (takes seconds to import)

    return answer(request)


def _components(answer: Estimate) -> dict[str, int]:
    """Return the bytes by component.

    The engines agree on activations, logits and loss together, but not on small labels.
    """
    parts: Counter[str] = Counter()
    for part in answer.memory.components:
        parts["activations" if part.name == "logits_and_loss" else part.name] += part.bytes
    return dict(parts)


def differences(calculated: Estimate, traced: Estimate) -> Iterator[tuple[str, Any]]:
    """Yield the differences, as pairs of the calculator's figure and the trace's."""
    pairs = {
        "parameters": (calculated.parameters, traced.parameters),
        "phases": (calculated.memory.phases, traced.memory.phases),
        "components": (_components(calculated), _components(traced)),
        "saved": (calculated.saved_bytes, traced.saved_bytes),
        "reserved": (calculated.memory.peak_reserved_bytes, traced.memory.peak_reserved_bytes),
    }
    for name, (left, right) in pairs.items():
        if left != right:
            yield name, (str(left), str(right))
