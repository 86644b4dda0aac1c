r"""Find the largest r, sequence_length, micro_batch_size, num_virtual_tokens or bottleneck_size that fits.

python -m app limits --solve_for r --model meta-llama/Llama-2-13b-hf --method qlora --gradient_checkpointing \
    --gpu "RTX 4090"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from app.api.answers.limits import limits_answer
from app.cli import request
from app.cli.table import table
from app.presentation.format import gib, number, signed
from app.presentation.verdict import VERDICTS
from calculator.limits.bounds import SolveFor
from calculator.limits.limits import limit, parse_limit

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from app.api.answers.limits import LimitPoint, LimitsAnswer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--solve_for", metavar="|".join(get_args(SolveFor)), help="the setting to maximise")
    request.add_method_argument(parser)
    request.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the limit; return 1 if no value fits."""
    body = request.body(args)
    if args.solve_for is not None:
        body = {**body, "solve_for": args.solve_for}
    answer = limits_answer(limit(parse_limit(body)))
    request.print_answer(args, answer, "\n".join(_lines(answer)))
    return int(answer.value is None)


def _lines(answer: LimitsAnswer) -> Iterator[str]:
    name = answer.solve_for
    yield f"No {name} fits." if answer.value is None else f"The largest {name} that fits: {number(answer.value)}"
    yield f"Bounded by {answer.bound.by.replace('_', ' ')}: {answer.bound.reason}."
    yield ""
    points = [_row(point) for point in (answer.at, answer.above) if point is not None]
    yield table((name, "Verdict", "Required GiB", "To spare", "Peak allocated GiB"), points, left=2)
    yield ""
    yield answer.guarantee
    yield from answer.warnings


def _row(point: LimitPoint) -> tuple[str, ...]:
    return (
        number(point.value),
        VERDICTS[point.verdict],
        f"{gib(point.required_bytes):,.2f}",
        signed(point.headroom_bytes),
        f"{gib(point.peak_allocated_bytes):,.2f}",
    )
