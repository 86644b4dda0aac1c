"""Estimate every combination of a grid, one line each. The values of the last --grid vary fastest.

python -m app sweep --model meta-llama/Llama-3.1-8B --method lora --grid r=8,16,32 --grid sequence_length=1024,2048

Exit status: 0 if a point fits, or if points are answered and no device is given; 1 if points are answered and none
fits; 2 if no point is answered, or if a field refuses a value of the grid at every point (r=hello). The other points
are printed all the same. Points that are refused only in combination (prefix tuning with checkpointing) are counted on
standard error and do not change the status.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from app.api.answers.sweep import cell, lines
from app.cli import options, request
from app.cli.sweep_progress import SweepProgress
from app.forms.fields import FIELDS, Field
from app.forms.plan_form import named_model
from app.http.bodies import parse_json
from app.presentation.format import gib, percent, signed
from app.presentation.verdict import VERDICTS
from calculator.common.errors import refusal
from calculator.limit_search.sweep import Sweep, Swept, answers, parse_sweep

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

#: The columns of figures, and their widths.
FIGURES = {"Verdict": 12, "Required GiB": 12, "To spare": 14, "Trained": 9}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--grid",
        metavar="FIELD=VALUE,...",
        action="append",
        default=[],
        help="a field, by its option's name or dotted path, and its values; in brackets they are a JSON list",
    )
    parser.add_argument("--csv", action="store_true", help="print CSV, as the JSON API does")
    request.add_method_argument(parser)
    request.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print one line per point, and remarks on refused points to standard error; return the exit status."""
    if args.csv and args.json:
        raise refusal("--csv", "give either --csv or --json, not both")
    sweep = parse_sweep(_body(args), most=None)
    progress = SweepProgress(sweep.count, visible=sys.stderr.isatty() and not sys.stdout.isatty())
    points = progress.watch(answers(sweep))
    if args.json or args.csv:
        text = lines(sweep.grid, points, "csv" if args.csv else "ndjson")
    else:
        text = _table(sweep, points)
    for line in text:
        sys.stdout.write(line)
    for remark in progress.remarks():
        sys.stderr.write(f"{remark}\n")
    return progress.status


def _body(args: argparse.Namespace) -> Any:
    """Return the request body. The --request file is an estimate's, or a sweep's whose grid the options extend."""
    body, lists = request.body(args), dict(_grid_field(text) for text in args.grid)
    if len(lists) < len(args.grid):
        raise refusal("grid", "give each field once, with all its values", args.grid)
    if "request" not in body and "grid" not in body:
        return {"request": body, "grid": lists}
    given = {key: value for key, value in body.items() if key not in ("request", "grid", "format")}
    return {"request": _overridden(body.get("request", {}), given), "grid": _overridden(body.get("grid", {}), lists)}


def _overridden(value: Any, given: dict[str, Any]) -> Any:
    """Return an object of the file, overridden by the options. Anything else is left for the calculator to refuse."""
    return options.merged(value, given) if isinstance(value, dict) else value


def _grid_field(text: str) -> tuple[str, list[Any]]:
    """Return the path of a field and its values."""
    name, _, values = text.partition("=")
    if not values:
        raise refusal("grid", "must be FIELD=VALUE,..., for example r=8,16", text)
    field = FIELDS.get(name.rpartition(".")[2])
    path = options.path(field) if field else {"method": "method.name"}.get(name, name)
    if values.startswith("["):
        return path, parse_json(values.encode(), text, "--grid")
    return path, [_value(path, field, value.strip()) for value in values.split(",")]


def _value(path: str, field: Field | None, text: str) -> Any:
    if field is not None:
        return options.value(field, text)
    if path == "model":
        return named_model(text)
    return options.integer(text)


def _table(sweep: Sweep, points: Iterator[Swept]) -> Iterator[str]:
    widths = [max(len(path), *(len(cell(value)) for value in values)) for path, values in sweep.grid.items()]
    yield _line([*map(str.ljust, sweep.grid, widths), *map(str.rjust, FIGURES, FIGURES.values())])
    for swept in points:
        cells = [cell(value).ljust(width) for value, width in zip(swept.point.values(), widths, strict=True)]
        yield _line([*cells, *map(str.rjust, _figures(swept), FIGURES.values())])


def _figures(swept: Swept) -> tuple[str, ...]:
    plan = swept.estimate
    if plan is None:
        return ("Refused:", *(f"{problem.loc}: {problem.msg}" for problem in swept.problems[:1]))
    return (
        VERDICTS[plan.fit.verdict] if plan.fit else "",
        f"{gib(plan.memory.required_bytes):,.2f}",
        signed(plan.fit.headroom_bytes) if plan.fit else "",
        percent(plan.parameters.trainable_fraction),
    )


def _line(cells: list[str]) -> str:
    return f"{'  '.join(cells).rstrip()}\n"
