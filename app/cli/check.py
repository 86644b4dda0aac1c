"""Check files of runs against a GPU: requests, adapter_config.json, YAML of training tools, scripts.

python -m app check run.json --gpu "RTX 4090" --report markdown

The exit status is that of the worst file: 0 if it fits or no GPU is given, 1 if it is tight or does not fit, 2 if it is
invalid. Scripts are parsed, never run.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from app.checks.checked import Checked, check
from app.checks.reports import REPORTS
from app.cli import files, options, request
from app.forms.fields import DEVICE
from calculator.common.errors import PlanError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from app.checks.checked import Outcome

#: The exit status of each outcome.
STATUS: dict[Outcome, int] = {"fits": 0, "estimated": 0, "tight": 1, "does_not_fit": 1, "invalid": 2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="the files; - reads standard input")
    parser.add_argument("--report", choices=REPORTS, default="text", help="what to print (default: text)")
    parser.add_argument("--sarif", metavar="FILE", help="also write a SARIF log, for code scanning")
    request.add_model_arguments(parser)
    options.add_fields(parser, DEVICE)


def run(args: argparse.Namespace) -> int:
    """Print a report of every file."""
    checked = _checked(args)
    request.print_text(REPORTS[args.report](checked))
    if args.sarif is not None:
        files.write("--sarif", args.sarif, REPORTS["sarif"](checked))
    return max(STATUS[result.outcome] for result in checked)


def _checked(args: argparse.Namespace) -> Sequence[Checked]:
    """Return the outcome of every file. A file that cannot be read is invalid. The others are checked nonetheless."""
    changes = options.body_of(args, DEVICE)
    model = request.model(args)
    if model is not None:
        changes["model"] = model
    changed = partial(_changed, changes)
    return [_check_file(path, changed) for path in args.files]


def _changed(changes: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    return options.merged(body, changes)


def _check_file(path: str, changed: Callable[[dict[str, Any]], dict[str, Any]]) -> Checked:
    try:
        raw = files.content("FILE", path)
    except PlanError as error:
        return Checked(path=path, outcome="invalid", sentences=tuple(problem.msg for problem in error.problems))
    return check(path, raw.decode("utf-8", "replace"), changed)
