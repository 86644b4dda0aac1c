"""Ask the peers about the published rows, in an environment of their own, and write down what they answer."""

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

#: Where answers are committed.
PREDICTIONS = HERE / "predictions.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--python", required=True, help="the interpreter of an environment with the peers")
    parser.add_argument("--write", type=Path, default=PREDICTIONS, metavar="FILE", help=f"({PREDICTIONS})")
    parser.add_argument("--date", default=datetime.now(UTC).date().isoformat(), help="the day of the answers (today)")


def run(told: argparse.Namespace) -> int:
    """Ask, and write the answers; returns 1 where a peer is not installed there."""
    asked = list(questions())
    done = subprocess.run(  # noqa: S603  the interpreter is the caller's own
        [told.python, str(HERE / "adapter.py")],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    answered = json.loads(done.stdout)
    for peer in answered.values():
        peer["date"] = told.date
    document = {"asked": {each["id"]: digest(each) for each in asked}, "peers": answered}
    part = told.write.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    part.replace(told.write)
    for name, peer in answered.items():
        said = sum("bytes" in answer for answer in peer["answers"].values())
        print(f"{name} {peer['version'] or 'is not installed'}: {said} of {len(asked)} answered")
    return int(any(peer["version"] is None for peer in answered.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A peer's version, the day on which it was asked, and its answers by the figures' ids."""

    name: str
    version: str
    date: str
    answers: dict[str, dict[str, Any]]


@cache
def peers() -> tuple[Peer, ...]:
    """What the peers answered to the questions that would be asked now; answers to others are left out."""
    told = json.loads(PREDICTIONS.read_text(encoding="utf-8"))
    known = {each["id"] for each in questions() if told["asked"].get(each["id"]) == digest(each)}
    return tuple(
        Peer(
            name=name,
            version=peer["version"],
            date=peer["date"],
            answers={id_: answer for id_, answer in peer["answers"].items() if id_ in known},
        )
        for name, peer in told["peers"].items()
        if peer["version"]
    )
