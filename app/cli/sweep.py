"""A grid of plans, a line each; a field that --grid lists takes its values in turn, the last one's fastest.

python -m app sweep --model meta-llama/Llama-3.1-8B --method lora --grid r=8,16,32 --grid sequence_length=1024,2048

Exit status: 0 where a point fits, or points are answered and no card is given; 1 where points are answered and none
fits; 2 where the request is wrong: no point is answered, or the grid has a value that its own field refuses at every
point (r=hello). Every other point is printed all the same. Points that are refused though their values are answered
elsewhere (prefix tuning beside LoRA, with checkpointing) are counted on standard error and change no status.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from app.api.answers.sweep import cell, lines
from app.cli import files, options, request
from app.cli.sweep_watch import Watch
from app.forms.fields import FIELDS, Field
from app.forms.plan_form import model_named
from app.presentation.format import gib, percent, signed
from app.presentation.verdict import WORDS
from calculator.common.errors import refusal
from calculator.limits.sweep import Sweep, Swept, answers, parse_sweep

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

#: The table's figures and their widths.
FIGURES = {"Verdict": 12, "Required GiB": 12, "To spare": 14, "Trained": 9}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--grid",
        metavar="FIELD=VALUE,...",
        action="append",
        default=[],
        help="a field by its option's name or dotted path, and its values; in brackets they are a list in JSON",
    )
    parser.add_argument("--csv", action="store_true", help="print comma-separated values, as the API does")
    request.method_argument(parser)
    request.arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print a line a point, and on standard error what is refused; returns what the grid comes to as a status."""
    if args.csv and args.json:
        raise refusal("--csv", "give either --csv or --json, not both")
    sweep = parse_sweep(_body(args), most=None)
    watch = Watch(sweep.count, shown=sys.stderr.isatty() and not sys.stdout.isatty())
    points = watch.watched(answers(sweep))
    if args.json or args.csv:
        text = lines(sweep.grid, points, "csv" if args.csv else "ndjson")
    else:
        text = _table(sweep, points)
    for line in text:
        sys.stdout.write(line)
    for remark in watch.remarks():
        sys.stderr.write(f"{remark}\n")
    return watch.status


def _body(args: argparse.Namespace) -> Any:
    """The sweep's request; the file is an estimate's, or a sweep's whose grid the options extend."""
    body, lists = request.body(args), dict(_listed(text) for text in args.grid)
    if len(lists) < len(args.grid):
        raise refusal("grid", "a field has its values in one list, not in two", args.grid)
    if "request" not in body and "grid" not in body:
        return {"request": body, "grid": lists}
    given = {key: value for key, value in body.items() if key not in ("request", "grid", "format")}
    return {"request": _laid_over(body.get("request", {}), given), "grid": _laid_over(body.get("grid", {}), lists)}


def _laid_over(stated: Any, given: dict[str, Any]) -> Any:
    """What a file has, with the options laid over it; what is no object is left for the refusal that names it."""
    return options.merged(stated, given) if isinstance(stated, dict) else stated


def _listed(text: str) -> tuple[str, list[Any]]:
    """A field's path and its values."""
    name, _, values = text.partition("=")
    if not values:
        raise refusal("grid", "must be FIELD=VALUE,... as r=8,16", text)
    field = FIELDS.get(name.rpartition(".")[2])
    path = options.path(field) if field else {"method": "method.name"}.get(name, name)
    if values.startswith("["):
        return path, files.value(values.encode(), text, "--grid")
    return path, [_value(path, field, value.strip()) for value in values.split(",")]


def _value(path: str, field: Field | None, text: str) -> Any:
    if field is not None:
        return options.value(field, text)
    if path == "model":
        return model_named(text)
    return options.whole(text)


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
        WORDS[plan.fit.verdict] if plan.fit else "",
        f"{gib(plan.memory.required_bytes):,.2f}",
        signed(plan.fit.headroom_bytes) if plan.fit else "",
        percent(plan.parameters.trainable_fraction),
    )


def _line(cells: list[str]) -> str:
    return f"{'  '.join(cells).rstrip()}\n"
