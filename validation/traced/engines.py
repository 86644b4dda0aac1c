"""Compare the two engines on every family that the calculator models: one random request each.

Prints a line for each family: whether parameters, phases, components, saved bytes and reserved memory are equal. Allocated
memory must be equal to the byte.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError
from calculator.estimate.estimate import estimate
from calculator.estimate.request import parse_request
from calculator.estimate.traced.answer import traced_estimate
from calculator.families import FAMILIES_WITH_FORWARD
from validation.random_grid.random_requests import random_request
from validation.tracing.silence import silence_libraries

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from calculator.estimate.answer import Estimate
    from calculator.estimate.request import Request

#: The most tokens of a sequence: the comparison is of bytes, and short steps are traced sooner.
LONGEST = 256


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="only these")
    parser.add_argument("--seed", type=int, default=0, help="the random seed (0)")


def run(args: argparse.Namespace) -> int:
    """Compare and print; returns 1 if allocated memory differs."""
    silence_libraries()
    differ = 0
    for family in args.families or FAMILIES_WITH_FORWARD:
        request, calculated = answered(family, args.seed)
        found = dict(differences(calculated, traced(request)))
        differ += bool(found.keys() - {"reserved"})
        print(f"{family:24} {request.method.name:10} {json.dumps(found) if found else 'equal to the byte'}", flush=True)
    return int(differ > 0)


def answered(family: str, seed: int) -> tuple[Request, Estimate]:
    """The first random request of a family that both engines take, and the calculator's answer."""
    number = 0
    while True:
        body = random_request(seed, number, [family])
        body["training"]["sequence_length"] = min(body["training"]["sequence_length"], LONGEST)
        number += 1
        try:
            request = parse_request(body)
            return request, estimate(request)
        except PlanError:
            continue


def traced(request: Request) -> Estimate:
    """A request's answer by the traced engine, in this process."""
    from validation.traced.engine import answer  # noqa: PLC0415  (takes seconds to import)

    return traced_estimate(request, answer(request))


def _components(answer: Estimate) -> dict[str, int]:
    """Bytes by component. The engines agree on the sum of activations, logits and loss, but not on small labels."""
    parts: Counter[str] = Counter()
    for part in answer.memory.components:
        parts["activations" if part.name == "logits_and_loss" else part.name] += part.bytes
    return dict(parts)


def differences(calculated: Estimate, traced: Estimate) -> Iterator[tuple[str, Any]]:
    """What differs, as pairs of the calculator's figure and the trace's."""
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
