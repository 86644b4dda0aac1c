"""Compare the calculator's rows at each phase's peak with those of the traced step, and show the differences."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from calculator.estimation.compatibility import check
from calculator.estimation.estimate import model_of, parameter_counts, training_step
from calculator.estimation.positions import within_positions
from calculator.estimation.request import parse_request
from validation.cli.files import read_request
from validation.comparison.matching import differences
from validation.comparison.show import peak_rank, traced_body
from validation.tracing import snapshot
from validation.tracing.silence import silence_libraries

if TYPE_CHECKING:
    import argparse

    from calculator.common.names import PhaseName
    from calculator.estimation.request import Request
    from validation.comparison.matching import Difference
    from validation.tracing.snapshot import Row, Snapshot


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("request", help="the file of an estimate request as JSON; - reads standard input")
    parser.add_argument("--json", action="store_true", help="print the differences as JSON")
    parser.add_argument(
        "--rows", type=int, default=20, metavar="N", help="the most differences to print per phase (20)"
    )


def run(args: argparse.Namespace) -> int:
    """Compare and print; returns 1 if a phase's bytes differ."""
    silence_libraries()
    body = read_request(args.request)
    estimated, traced = estimate(parse_request(body)), snapshot.traced(traced_body(body, rank=peak_rank(body)))
    if args.json:
        print(json.dumps(document(estimated, traced), indent=2))
    else:
        print("\n".join(lines(estimated, traced, args.rows)))
    return int(estimated.phases != traced.phases)


def estimate(request: Request) -> Snapshot:
    """Return the calculator's snapshot of a step.

    Raises:
        PlanError: if the calculator refuses the request.
    """
    model = model_of(request.model)
    request = within_positions(request, model)
    check(request, model)
    # The trace runs a current GPU's kernels on the meta device, whatever device the request names.
    device = replace(request.device, gpu=None, memory_bytes=None, type="meta")
    step = training_step(replace(request, device=device))
    return snapshot.estimated(step, asdict(parameter_counts(step.resident.whole)))


def document(estimated: Snapshot, traced: Snapshot) -> dict[str, Any]:
    """Return every figure and difference as JSON values."""
    return {
        "parameters": {"estimated": estimated.parameters, "traced": traced.parameters},
        "static": {"estimated": estimated.static, "traced": traced.static},
        "peak_phase": {"estimated": estimated.peak_phase, "traced": traced.peak_phase},
        "peak_bytes": {"estimated": estimated.peak, "traced": traced.peak},
        "phases": {phase: _phase(estimated, traced, phase) for phase in traced.alive},
    }


def _phase(estimated: Snapshot, traced: Snapshot, phase: PhaseName) -> dict[str, Any]:
    return {
        "bytes": {"estimated": estimated.phases[phase], "traced": traced.phases[phase]},
        "operation": {"estimated": estimated.operations[phase], "traced": traced.operations[phase]},
        "components": {
            "estimated": bytes_by_component(estimated.alive[phase]),
            "traced": bytes_by_component(traced.alive[phase]),
        },
        "differences": [
            {
                "kind": difference.kind,
                **difference.row._asdict(),
                "estimated": difference.estimated,
                "traced": difference.traced,
                "difference": difference.bytes,
            }
            for difference in differences(estimated, traced, phase)
        ],
    }


def lines(estimated: Snapshot, traced: Snapshot, rows: int) -> list[str]:
    """Return the comparison as lines of text, in bytes; a difference is estimated minus traced."""
    shown = [*_unequal("parameters", estimated.parameters, traced.parameters)]
    shown += _unequal("static", estimated.static, traced.static)
    shown += [
        f"peak: {_figures(estimated.peak, traced.peak)}, in {estimated.peak_phase}, traced in {traced.peak_phase}"
    ]
    for phase in traced.alive:
        shown += ["", f"{phase}: {_figures(estimated.phases[phase], traced.phases[phase])}"]
        shown += [f"  at {estimated.operations[phase]}; traced at {traced.operations[phase]}"]
        errors = differences(estimated, traced, phase)
        shown += [f"  {line(match)}" for match in errors[:rows]] or ["  every row has a counterpart"]
        if len(errors) > rows:
            shown.append(f"  and {len(errors) - rows} more: {sum(match.bytes for match in errors[rows:]):+,}")
    return shown


def line(difference: Difference) -> str:
    """Return one difference as a line."""
    row = difference.row
    shape = "×".join(map(str, row.shape)) or "scalar"
    counts = f"{difference.estimated} for {difference.traced} traced"
    return f"{difference.bytes:>+18,}  {difference.kind:7} {row.path}: {row.name}  {shape} {row.dtype}, {counts}"


def _figures(estimated: int, traced: int) -> str:
    return f"{estimated:,} for {traced:,} traced, {estimated - traced:+,} ({(estimated - traced) / traced:+.4%})"


def _unequal(title: str, estimated: dict[str, int], traced: dict[str, int]) -> list[str]:
    return [
        f"{title}.{name}: {estimated[name]:,} for {value:,} traced"
        for name, value in traced.items()
        if estimated[name] != value
    ]


def bytes_by_component(rows: Counter[Row]) -> dict[str, int]:
    """Return bytes by component."""
    sums: Counter[str] = Counter()
    for row, count in rows.items():
        sums[row.component] += row.bytes * count
    return dict(sums)
