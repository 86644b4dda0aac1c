r"""Find the largest r, sequence_length, micro_batch_size, num_virtual_tokens or bottleneck_size that fits.

For count, the number of GPUs, find the smallest value.

python -m app limits --solve_for r --model meta-llama/Llama-2-13b-hf --method qlora --gradient_checkpointing \
    --gpu "RTX 4090"
python -m app limits --solve_for count --model meta-llama/Llama-3.1-8B --method full --gradient_checkpointing \
    --gpu "RTX 4090" --sharding fsdp
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from app.api.answers.limits import limits_answer
from app.cli import request
from app.cli.table import table
from app.presentation.format import gib, number, signed
from app.presentation.verdict import VERDICTS
from calculator.limit_search.bounds import SolveFor
from calculator.limit_search.limits import limit, parse_limit

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from calculator.limit_search.limit import Limit
    from calculator.limit_search.probes import ProbeResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--solve_for",
        metavar="|".join(get_args(SolveFor)),
        help="the setting to maximize; count finds the fewest GPUs, with --sharding",
    )
    request.add_method_argument(parser)
    request.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the limit; return 1 if no value fits."""
    body = request.complete_body(args)
    if args.solve_for is not None:
        body = {**body, "solve_for": args.solve_for}
    result = limit(parse_limit(body))
    request.print_text(
        limits_answer(result).model_dump_json(indent=2) if args.json else request.worded(args, "\n".join(lines(result)))
    )
    return int(result.value is None)


def lines(result: Limit) -> Iterator[str]:
    """Yield the lines of a limit."""
    name, most = result.solve_for, result.largest_with_retries
    which = "smallest" if name == "count" else "largest"
    yield f"No {name} fits." if result.value is None else f"The {which} {name} that fits: {number(result.value)}"
    if most is not None and most != result.value:
        yield f"Up to {number(most)} it runs, but only by freeing cached blocks."
    yield f"Bounded by {result.bound.by.replace('_', ' ')}: {result.bound.reason}."
    yield ""
    points = [_row(point) for point in (result.below, result.at, result.above) if point is not None]
    yield table((name, "Verdict", "Required GiB", "To spare", "Peak allocated GiB"), points, left=2)
    yield ""
    yield result.guarantee
    yield from result.warnings


def _row(point: ProbeResult) -> tuple[str, ...]:
    fit, memory = point.estimate.fit, point.estimate.memory
    assert fit is not None
    return (
        number(point.value),
        VERDICTS[fit.verdict],
        f"{gib(memory.required_bytes):,.2f}",
        signed(fit.headroom_bytes),
        f"{gib(memory.peak_allocated_bytes):,.2f}",
    )
