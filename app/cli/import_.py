"""Another tool's file as a request: PEFT's adapter_config.json, axolotl's or LLaMA-Factory's YAML.

python -m app import axolotl.yaml | python -m app estimate --request - --gpu "RTX 4090"
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from app.api.answers.estimate import ImportAnswer
from app.cli import files, request
from app.interop.imports import FORMATS, read

if TYPE_CHECKING:
    import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", metavar="FILE", help="the file; - reads standard input")
    parser.add_argument("--format", choices=FORMATS, help="what the file is of; its keys tell where left out")
    request.model_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the API's answer")


def run(args: argparse.Namespace) -> int:
    """Print the request, and tell on standard error what of the file it does not hold."""
    text = files.content("FILE", args.file).decode("utf-8", "replace")
    found = read(text, args.format, request.model(args))
    for each in found.not_understood:
        sys.stderr.write(f"{each.key}: {json.dumps(each.value)}: {each.why}\n")
    answer = ImportAnswer.model_validate(found)
    sys.stdout.write(f"{answer.model_dump_json(indent=2) if args.json else json.dumps(answer.request, indent=2)}\n")
    return 0
