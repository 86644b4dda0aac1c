"""A model's config.json from the hub, where the catalogue lacks the model; needs the extra headroom[hub].

python -m app fetch Qwen/Qwen2.5-14B > config.json && python -m app estimate --config config.json --method lora

It is the only command that goes online; HF_HUB_OFFLINE=1 keeps it to what was fetched before. No code of a repository
is run. A gated model needs hf auth login, or HF_TOKEN.
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


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("id", metavar="ID", help="a hub id or a hub URL")
    parser.add_argument("--revision", metavar="REVISION", help="a branch, a tag or a commit; main where left out")
    parser.add_argument("--output", metavar="FILE", help="write it there; standard output where left out")


def run(args: argparse.Namespace) -> int:
    """Print the file, and tell on standard error what is worth knowing of it."""
    config = hub.config_of(args.id, args.revision)
    for sentence in _remarks(config):
        sys.stderr.write(f"{sentence}\n")
    text = f"{json.dumps(config, indent=2, ensure_ascii=False)}\n"
    files.write("--output", args.output, text)
    return 0


def _remarks(config: dict[str, Any]) -> Iterator[str]:
    family = config.get("model_type")
    if family not in FAMILIES:
        yield f"model_type {family!r} is not known here; known are {', '.join(sorted(FAMILIES))}"
    if "auto_map" in config:
        yield "auto_map names code of the repository, which is never run: figures are those of transformers' own model."
