"""The file that runs a plan: a training script, or another tool's configuration.

python -m app export --format axolotl --model meta-llama/Llama-3.1-8B --method lora --r 16 --output axolotl.yaml
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from app.api.answers.estimate import ExportAnswer
from app.cli import files, request
from app.cli.estimate import status
from app.interop.exports import FORMATS
from app.interop.exports.planned import planned
from calculator.estimate.request import parse_request

if TYPE_CHECKING:
    import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--format", choices=FORMATS, default="peft", help="what to write; peft where left out")
    parser.add_argument("--output", metavar="FILE", help="where to write it, instead of standard output")
    request.method_argument(parser)
    request.arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write the file, and tell on standard error where it differs; returns the plan's verdict as an exit status."""
    plan = planned(parse_request(request.body(args)))
    file = FORMATS[args.format](plan)
    for each in file.not_expressed:
        sys.stderr.write(f"{each.loc}: {each.why}\n")
    text = f"{ExportAnswer.model_validate(file).model_dump_json(indent=2)}\n" if args.json else file.content
    files.write("--output", args.output, text)
    return status(plan.plan.fit)
