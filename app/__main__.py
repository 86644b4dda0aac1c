"""The command line: serve the pages and the API, or estimate one request from a file."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from app.bodies import decoded
from app.endpoints import estimate
from app.problems import Refusal
from calculator.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Sequence


def parser() -> argparse.ArgumentParser:
    """The arguments that are understood."""
    told = argparse.ArgumentParser(prog="python -m app", description="Headroom: does a fine-tuning run fit a GPU?")
    told.add_argument("--host", default=os.environ.get("HOST", "127.0.0.1"), help="address to serve at")
    told.add_argument("--port", type=int, default=int(os.environ.get("PORT", "8000")), help="port to serve at")
    commands = told.add_subparsers(dest="command", metavar="COMMAND")
    one = commands.add_parser("estimate", help="print the answer to one request, as POST /api/v1/estimate gives it")
    one.add_argument("request", type=Path, metavar="REQUEST.json", help="the request's file, or - for standard input")
    return told


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; 2 where a request has no answer."""
    asked = parser().parse_args(arguments)
    if asked.command == "estimate":
        return _estimate(asked.request)
    uvicorn.run("app.application:application", factory=True, host=asked.host, port=asked.port, server_header=False)
    return 0


def _estimate(path: Path) -> int:
    try:
        raw = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        answer = estimate.answered(decoded(raw))
    except PlanError as error:
        for problem in error.problems:
            sys.stderr.write(f"{problem.loc}: {problem.msg}\n" if problem.loc else f"{problem.msg}\n")
        return 2
    except (OSError, Refusal) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{answer.model_dump_json(indent=2)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
