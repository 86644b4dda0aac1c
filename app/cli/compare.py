"""Compare fine-tuning methods on one model, training and device.

A setting applies to every method that has it.

python -m app compare --model meta-llama/Llama-3.1-8B --r 16 --gradient_checkpointing --gpu "RTX 4090"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.api.answers.compare import compare_answer
from app.cli import messages, options, request
from app.cli.estimate import status
from app.cli.table import table
from app.forms.fields import METHOD
from app.presentation.format import gib, number, percent, signed
from app.presentation.verdict import VERDICTS
from calculator.common.errors import refusal
from calculator.comparison.methods import ComparisonRow, compare, parse_comparison
from calculator.methods import METHODS, USUAL_METHODS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from calculator.estimation.answer import Estimate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--methods",
        metavar="NAME,...",
        help=f"the methods, from {', '.join(METHODS)} (default: {', '.join(USUAL_METHODS)})",
    )
    request.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print one row per method; return 0 if one of them fits, or if no device is given."""
    body = _body(args)
    messages.require(body, "model")
    rows = compare(parse_comparison(body))
    request.print_text(
        compare_answer(rows).model_dump_json(indent=2) if args.json else request.worded(args, "\n".join(_lines(rows)))
    )
    return min(status(row.estimate.fit) for row in rows if row.estimate)


def _body(args: argparse.Namespace) -> Any:
    """Return the request body, with each method setting in every method that has it."""
    given = request.options_body(args)
    settings = given.pop("method", {})
    if args.methods is not None:
        given["methods"] = [{"name": name} for name in options.list_of("--methods", args.methods)]
    body = request.with_file(args, given)
    if not settings:
        return body
    methods = body.get("methods", [{"name": name} for name in USUAL_METHODS])
    accepted = [_setting_names(method) for method in methods] if isinstance(methods, list) else []
    for name, value in settings.items():
        if not any(name in names for names in accepted):
            raise refusal(f"method.{name}", "none of the methods has this setting", value)
    methods = [
        {**method, **{name: value for name, value in settings.items() if name in names}} if names else method
        for method, names in zip(methods, accepted, strict=True)
    ]
    return {**body, "methods": methods}


def _setting_names(method: Any) -> set[str]:
    name = method.get("name") if isinstance(method, dict) else None
    return {field.declared.name for field in METHOD[name]} if isinstance(name, str) and name in METHOD else set()


def _lines(rows: tuple[ComparisonRow, ...]) -> Iterator[str]:
    yield table(
        ("Method", "Verdict", "Required GiB", "To spare", "Trained", "Share"), [_row(row) for row in rows], left=2
    )
    for row in rows:
        for problem in row.problems:
            yield f"{row.method.label} is refused: {problem.sentence}"


def _row(row: ComparisonRow) -> tuple[str, ...]:
    plan = row.estimate
    return (row.method.label, *(_figures(plan) if plan else ("Refused", "", "", "", "")))


def _figures(plan: Estimate) -> tuple[str, ...]:
    counts, fit = plan.parameters, plan.fit
    return (
        VERDICTS[fit.verdict] if fit else "",
        f"{gib(plan.memory.required_bytes):,.2f}",
        signed(fit.headroom_bytes) if fit else "",
        number(counts.trainable),
        percent(counts.trainable_fraction),
    )
