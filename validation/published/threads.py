"""Diagnose out-of-memory messages of public threads that state their run, one by one.

The messages are of other releases than the figures, so that the bytes in use before a request differ.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calculator.diagnosis.diagnosis import diagnose
from calculator.diagnosis.message import parse_message
from calculator.estimation.request import parse_request

if TYPE_CHECKING:
    import argparse

    from calculator.diagnosis.diagnosis import Diagnosis

#: The threads: the address, what it states, the message, the request, and why no tensor has the size if none has.
THREADS = Path(__file__).parent / "threads.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """A thread with its diagnosis."""

    address: str
    diagnosis: Diagnosis
    why: str

    @property
    def is_end(self) -> bool:
        """Whether the replay ends at the tensor that is found, on what the message leaves."""
        predicted, matches = self.diagnosis.predicted, self.diagnosis.matches
        return bool(matches) and predicted is not None and predicted.tensor == matches[0].tensor

    def line(self) -> str:
        """Return the thread in a line: the size that is reported, and the tensor that is found."""
        requested = self.diagnosis.message.requested.text
        name = "/".join(self.address.split("/")[-3::2])
        if not self.diagnosis.matches:
            return f"{name:26} {requested:>10}  none: {self.why}"
        first = self.diagnosis.matches[0]
        off = first.difference_bytes / (1 << 30)
        end = "the replay ends there" if self.is_end else f"{off:+.2f} GiB allocated before it"
        return f"{name:26} {requested:>10}  {first.tensor}, {first.phase} of step {first.step}: {end}"


def diagnosed(thread: dict[str, Any]) -> Thread:
    """Diagnose a thread."""
    text = f"{thread.get('traceback', '')}\n{thread['message']}"
    diagnosis = diagnose(parse_request(thread["request"]), parse_message(text))
    return Thread(address=thread["address"], diagnosis=diagnosis, why=thread.get("why", ""))


def threads() -> list[dict[str, Any]]:
    """Return every thread."""
    listed: list[dict[str, Any]] = json.loads(THREADS.read_text(encoding="utf-8"))
    return listed


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: there are none."""
    parser.set_defaults()


def run(args: argparse.Namespace) -> int:
    """Print a line for each thread, and how many were found."""
    results = [diagnosed(thread) for thread in threads()]
    print("\n".join(match.line() for match in results))
    sized = sum(bool(match.diagnosis.matches) for match in results)
    ends = sum(match.is_end for match in results)
    print(f"{sized} of {len(results)} sizes are tensors of the run; the replay ends at {ends}")
    return 0
