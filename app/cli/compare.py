"""The methods side by side on one model, training and device; a setting goes to each method that has it.

python -m app compare --model meta-llama/Llama-3.1-8B --r 16 --gradient_checkpointing --gpu "RTX 4090"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.api.compare import answer_of
from app.cli import options, request
from app.cli.estimate import status
from app.cli.table import table
from app.forms.fields import METHOD
from app.presentation.format import gib, number, percent, signed
from app.presentation.verdict import WORDS
from calculator.common.errors import refusal
from calculator.compare.methods import ComparisonRow, compare, parse_comparison
from calculator.methods import METHODS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from calculator.estimate.answer import Estimate


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--methods", metavar="NAME,...", help=f"from {', '.join(METHODS)}; all where left out")
    request.arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print a row a method; 0 where one of them fits, or nothing was asked to."""
    rows = compare(parse_comparison(_body(args)))
    request.shown(args, answer_of(rows), "\n".join(_lines(rows)))
    return min(status(row.estimate.fit) for row in rows if row.estimate)


def _body(args: argparse.Namespace) -> Any:
    """The request, with the settings given for methods in each method that has them."""
    given = request.common(args)
    settings = given.pop("method", {})
    if args.methods is not None:
        given["methods"] = [{"name": name} for name in options.several("--methods", args.methods)]
    body = request.laid_over(args, given)
    if not settings:
        return body
    methods = body.get("methods", [{"name": name} for name in METHODS])
    known = [_settings(method) for method in methods] if isinstance(methods, list) else []
    for name, value in settings.items():
        if not any(name in names for names in known):
            raise refusal(f"method.{name}", "none of the methods has it", value)
    methods = [
        {**method, **{name: value for name, value in settings.items() if name in names}} if names else method
        for method, names in zip(methods, known, strict=True)
    ]
    return {**body, "methods": methods}


def _settings(method: Any) -> set[str]:
    name = method.get("name") if isinstance(method, dict) else None
    return {field.declared.name for field in METHOD[name]} if isinstance(name, str) and name in METHOD else set()


def _lines(rows: tuple[ComparisonRow, ...]) -> Iterator[str]:
    yield table(
        ("Method", "Verdict", "Required GiB", "To spare", "Trained", "Share"), [_row(row) for row in rows], left=2
    )
    for row in rows:
        for problem in row.problems:
            yield f"{row.method.facts.label} is refused: {problem.loc}: {problem.msg}"


def _row(row: ComparisonRow) -> tuple[str, ...]:
    plan = row.estimate
    return (row.method.facts.label, *(_figures(plan) if plan else ("Refused", "", "", "", "")))


def _figures(plan: Estimate) -> tuple[str, ...]:
    counts, fit = plan.parameters, plan.fit
    return (
        WORDS[fit.verdict] if fit else "",
        f"{gib(plan.memory.required_bytes):,.2f}",
        signed(fit.headroom_bytes) if fit else "",
        number(counts.trainable),
        percent(counts.trainable_fraction),
    )
