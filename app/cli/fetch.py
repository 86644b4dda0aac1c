"""Download a model's config.json from the Hugging Face Hub, for a model that is not in the catalogue.

python -m app fetch Qwen/Qwen2.5-14B > config.json && python -m app estimate --config config.json --method lora

Needs the package huggingface-hub, which the extra `hub` installs. This is the only command that uses the network; with
HF_HUB_OFFLINE=1 it reads only what was downloaded before. It never runs code of a repository. A gated model needs
hf auth login, or HF_TOKEN.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from app.cli import files
from app.interop import hub
from calculator.families import FAMILIES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("id", metavar="ID", help="a hub id or a hub URL")
    parser.add_argument("--revision", metavar="REVISION", help="a branch, tag or commit (default: main)")
    parser.add_argument("--output", metavar="FILE", help="the file to write (default: standard output)")


def run(args: argparse.Namespace) -> int:
    """Write the config, and print remarks to standard error."""
    config = hub.config_of(args.id, args.revision)
    for sentence in _remarks(config):
        sys.stderr.write(f"{sentence}\n")
    text = f"{json.dumps(config, indent=2, ensure_ascii=False)}\n"
    files.write("--output", args.output, text)
    return 0


def _remarks(config: dict[str, Any]) -> Iterator[str]:
    family = config.get("model_type")
    if family not in FAMILIES:
        yield f"model_type {family!r} is not supported; supported are {', '.join(sorted(FAMILIES))}"
    if "auto_map" in config:
        yield "auto_map names code of the repository, which is never run: the figures are for transformers' own model."
