"""Export a run as a training script or as the configuration of another tool.

python -m app export --format axolotl --model meta-llama/Llama-3.1-8B --method lora --r 16 --output axolotl.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from app.api.answers.export import ExportAnswer
from app.cli import files, request
from app.cli.estimate import status
from app.interop.exports import FORMATS
from app.interop.exports.planned import planned
from calculator.estimation.request import parse_request

if TYPE_CHECKING:
    import argparse

    from app.interop.exports.exported import AdditionalFile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--format", choices=FORMATS, default="peft", help="the format of the file (default: peft)")
    parser.add_argument("--output", metavar="FILE", help="the file to write (default: standard output)")
    request.add_method_argument(parser)
    request.add_arguments(parser)


def _write_others(output: str | None, others: tuple[AdditionalFile, ...]) -> None:
    """Write the files that the exported one needs into its folder, or print their names."""
    for other in others:
        if output is None:
            sys.stderr.write(f"{other.filename}: --output writes it next to the file, --json prints it\n")
        else:
            files.write("--output", str(Path(output).with_name(other.filename)), other.content)


def run(args: argparse.Namespace) -> int:
    """Write the file, and print to standard error what it cannot express; return the verdict as an exit status."""
    plan = planned(parse_request(request.complete_body(args)))
    file = FORMATS[args.format](plan)
    for setting in file.not_expressed:
        sys.stderr.write(f"{setting.loc}: {setting.why}\n")
    text = f"{ExportAnswer.model_validate(file).model_dump_json(indent=2)}\n" if args.json else file.content
    files.write("--output", args.output, text)
    if not args.json:
        _write_others(args.output, file.additional_files)
    return status(plan.plan.fit)
