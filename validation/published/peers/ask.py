"""Run the peers on the published rows, in a separate environment, and write their answers."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validation.published.peers.questions import digest, questions

if TYPE_CHECKING:
    import argparse

HERE = Path(__file__).parent

#: The committed answers.
PREDICTIONS = HERE / "predictions.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--python", required=True, help="the Python interpreter of an environment with the peers")
    parser.add_argument(
        "--write", type=Path, default=PREDICTIONS, metavar="FILE", help=f"the file of answers to write ({PREDICTIONS})"
    )
    parser.add_argument("--date", default=datetime.now(UTC).date().isoformat(), help="the date of the answers (today)")


def run(args: argparse.Namespace) -> int:
    """Run the peers and write their answers; returns 1 if a peer is not installed there."""
    every = list(questions())
    done = subprocess.run(  # noqa: S603  (the caller names the interpreter)
        [args.python, str(HERE / "adapter.py")],
        input=json.dumps(every),
        capture_output=True,
        text=True,
        check=True,
    )
    answered = json.loads(done.stdout)
    for peer in answered.values():
        peer["date"] = args.date
    document = {"questions": {row["id"]: digest(row) for row in every}, "peers": answered}
    part = args.write.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    part.replace(args.write)
    for name, peer in answered.items():
        count = sum("bytes" in answer for answer in peer["answers"].values())
        print(f"{name} {peer['version'] or 'is not installed'}: {count} of {len(every)} answered")
    return int(any(peer["version"] is None for peer in answered.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A peer's version, the date of its answers, and the answers by the figures' ids."""

    name: str
    version: str
    date: str
    answers: dict[str, dict[str, Any]]


@cache
def peers() -> tuple[Peer, ...]:
    """Return the peers' committed answers to the current questions; answers to earlier questions are left out."""
    committed = json.loads(PREDICTIONS.read_text(encoding="utf-8"))
    answered = {
        question["id"] for question in questions() if committed["questions"].get(question["id"]) == digest(question)
    }
    return tuple(
        Peer(
            name=name,
            version=peer["version"],
            date=peer["date"],
            answers={id_: answer for id_, answer in peer["answers"].items() if id_ in answered},
        )
        for name, peer in committed["peers"].items()
        if peer["version"]
    )
