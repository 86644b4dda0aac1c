"""Estimate every combination of a grid, one line each.

The values of the last --grid vary fastest.

python -m app sweep --model meta-llama/Llama-3.1-8B --method lora --grid r=8,16,32 --grid sequence_length=1024,2048

Exit status: 0 if a point fits, or if points are answered and no device is given; 1 if points are answered and none
fits; 2 if no point is answered, or if a field refuses a value of the grid at every point (r=hello). The other points
are printed all the same. Points that are refused only in combination (prefix tuning with checkpointing) are counted on
standard error and do not change the status.

--jobs computes the points in several processes, and --backend and --scheduler on a cluster: docs/sweeps.md.
"""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.api.answers.sweep import cell, lines, row
from app.cli import messages, options, request
from app.cli.sweep_progress import SweepProgress
from app.forms.fields import FIELDS, Field
from app.forms.plan_form import named_model
from app.http.bodies import parse_json
from app.presentation.format import gib, percent, signed
from app.presentation.verdict import VERDICTS
from app.sweeps import parquet
from app.sweeps.backends import BACKENDS, Processes
from app.sweeps.spread import rows
from calculator.common.errors import refusal
from calculator.devices import Verdict
from calculator.limit_search.sweep import answers, parse_sweep

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from app.sweeps.backends import BackendName
    from calculator.limit_search.sweep import Sweep

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
    parser.add_argument(
        "--parquet", metavar="FILE", type=Path, help="write a Parquet file instead, with the extra parquet"
    )
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=_jobs,
        help="processes that compute the points, through joblib with the extra scale; -1 is one for each core, or for"
        " each of the cluster's (default: this process, or with --backend all cores)",
    )
    parser.add_argument(
        "--backend", choices=BACKENDS, help="what starts the processes: loky on this machine (default), dask or ray"
    )
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="the scheduler of a running cluster, such as tcp://10.0.0.1:8786"
    )
    request.add_method_argument(parser)
    request.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print one line per point, and remarks on refused points to standard error; return the exit status."""
    kinds = [kind for kind in ("csv", "json", "parquet") if getattr(args, kind)]
    if len(kinds) > 1:
        raise refusal(f"--{kinds[0]}", f"give either --{kinds[0]} or --{kinds[1]}, not both")
    processes = _processes(args)
    body = _body(args)
    if args.request is None:
        messages.require(body, "grid")
        varied = {path.removesuffix(".name"): path for path in body["grid"]}
        messages.require({**varied, **body["request"]}, "model", "method")
    sweep = parse_sweep(body, most=None)
    shown = sys.stderr.isatty() and (args.parquet is not None or not sys.stdout.isatty())
    progress = SweepProgress(sweep.count, visible=shown)
    computed = rows(sweep, processes) if processes else map(row, answers(sweep))
    for line in _text(args, sweep, progress.watch(sweep, computed)):
        sys.stdout.write(line)
    for remark in progress.remarks():
        sys.stderr.write(f"{remark}\n")
    return progress.status


def _text(args: argparse.Namespace, sweep: Sweep, rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    """Return the lines to print; with --parquet, rows are written to the file and no line is printed."""
    if args.parquet is not None:
        return ("" for _ in parquet.write(args.parquet, sweep, rows))
    if args.json or args.csv:
        return lines(sweep.grid, rows, "csv" if args.csv else "ndjson")
    return _table(sweep, rows)


def _processes(args: argparse.Namespace) -> Processes | None:
    """Return the processes of the options; None if this process computes.

    Raises:
        PlanError: if what they need is not installed.
    """
    if args.parquet is not None:
        parquet.check()
    if args.scheduler is not None and args.backend is None:
        raise refusal("--scheduler", "add --backend dask or --backend ray, whose scheduler it is", args.scheduler)
    if args.backend is None and args.jobs in (None, 1):
        return None
    backend: BackendName = args.backend or "loky"
    processes = Processes(jobs=-1 if args.jobs is None else args.jobs, backend=backend, scheduler=args.scheduler)
    processes.check()
    return processes


def _jobs(text: str) -> int:
    if text != "-1" and (not text.isdecimal() or not 1 <= len(text) <= 4 or int(text) < 1):
        raise ArgumentTypeError(f"{text!r} is not a number of processes: give 1 to 9999, or -1 for one for each core")
    return int(text)


def _body(args: argparse.Namespace) -> Any:
    """Return the request body. The --request file is an estimate's, or a sweep's whose grid the options extend."""
    body, lists = request.body(args), dict(_grid_field(text) for text in args.grid)
    if len(lists) < len(args.grid):
        raise refusal("--grid", "give each field once, with all its values, such as --grid r=8,16", args.grid)
    if "request" not in body and "grid" not in body:
        return {"request": body, "grid": lists or None}
    given = {key: value for key, value in body.items() if key not in ("request", "grid", "format")}
    return {"request": _overridden(body.get("request", {}), given), "grid": _overridden(body.get("grid", {}), lists)}


def _overridden(value: Any, given: dict[str, Any]) -> Any:
    """Return an object of the file, overridden by the options. Anything else is left for the calculator to refuse."""
    return options.merged(value, given) if isinstance(value, dict) else value


def _grid_field(text: str) -> tuple[str, list[Any]]:
    """Return the path of a field and its values."""
    name, _, values = text.partition("=")
    if not values:
        raise refusal("--grid", "must be FIELD=VALUE,..., for example r=8,16", text)
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


def _table(sweep: Sweep, rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    widths = [max(len(path), *(len(cell(value)) for value in values)) for path, values in sweep.grid.items()]
    yield _line([*map(str.ljust, sweep.grid, widths), *map(str.rjust, FIGURES, FIGURES.values())])
    for point, figures in zip(sweep.points(), rows, strict=True):
        cells = [cell(value).ljust(width) for value, width in zip(point.values(), widths, strict=True)]
        yield _line([*cells, *map(str.rjust, _figures(figures), FIGURES.values())])


def _figures(row: dict[str, Any]) -> tuple[str, ...]:
    if row["memory"] is None:
        return ("Refused:", *(f"{problem['loc']}: {problem['msg']}" for problem in row["problems"][:1]))
    fit = row["fit"]
    return (
        VERDICTS[Verdict(fit["verdict"])] if fit else "",
        f"{gib(row['memory']['required_bytes']):,.2f}",
        signed(fit["headroom_bytes"]) if fit else "",
        percent(row["parameters"]["trainable_fraction"]),
    )


def _line(cells: list[str]) -> str:
    return f"{'  '.join(cells).rstrip()}\n"
