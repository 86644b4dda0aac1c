"""Convert another tool's file to a request: PEFT's adapter_config.json, a tool's YAML, a TRL command, a script.

python -m app import axolotl.yaml | python -m app estimate --request - --gpu "RTX 4090"
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from app.api.answers.import_ import ImportAnswer
from app.cli import files, request
from app.interop.imports import FORMATS, read

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("file", metavar="FILE", help="the file; - reads standard input")
    parser.add_argument("--format", choices=FORMATS, help="the tool that the file is for (default: its keys decide)")
    request.add_model_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the answer of the JSON API")


def run(args: argparse.Namespace) -> int:
    """Print the request, and print to standard error which keys it does not reproduce exactly."""
    text = files.content("FILE", args.file).decode("utf-8", "replace")
    imported = read(text, args.format, request.model(args))
    for warning in imported.warnings:
        sys.stderr.write(f"Warning: {warning}\n")
    for entry in imported.not_understood:
        sys.stderr.write(f"{entry.key}: {json.dumps(entry.value)}: {entry.why}\n")
    answer = ImportAnswer.model_validate(imported)
    sys.stdout.write(f"{answer.model_dump_json(indent=2) if args.json else json.dumps(answer.request, indent=2)}\n")
    return 0
