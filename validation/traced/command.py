"""Answer one request by a trace of its step, in a process with limits.

Reads the body of an estimate's request from standard input. Writes lines of JSON to standard output: what runs
(`progress`), and at last the `document` of the trace or the `problems` of the request.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from importlib import import_module
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError, refusal
from calculator.estimation.request import parse_request
from validation.tracing.silence import silence_libraries

if TYPE_CHECKING:
    import argparse
    from typing import TextIO

#: Modules that are imported before imports are limited.
IMPORTED = ("validation.traced.engine", "validation.traced.limits", "transformers.modeling_utils")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--cpu-seconds", type=int, default=3600, metavar="N", help="the most CPU time (3600)")


def run(args: argparse.Namespace) -> int:
    """Answer the request on standard input; returns 1 if it is refused."""
    with redirect_stdout(sys.stderr):  # libraries print, too
        answer = _answer(json.load(sys.stdin), args.cpu_seconds, sys.__stdout__ or sys.stderr)
    (sys.__stdout__ or sys.stderr).write(f"{answer}\n")
    return int(answer.startswith('{"problems"'))


def _answer(body: Any, cpu_seconds: int, out: TextIO) -> str:
    """Return the last line of the answer; `out` gets those before it."""

    def progress(what: str) -> None:
        out.write(f"{json.dumps({'progress': what})}\n")
        out.flush()

    progress("importing PyTorch and transformers")
    silence_libraries()
    engine, limits, _ = map(import_module, IMPORTED)
    limits.limit(cpu_seconds)
    try:
        return f'{{"document":{engine.answer(parse_request(body), progress).to_json()}}}'
    except PlanError as error:
        return _problems(error)
    except MemoryError:
        message = (
            f"the trace needs more than {limits.MEMORY >> 30} GiB of memory, its limit: use a config of fewer layers"
        )
        return _problems(refusal("model", message))


def _problems(error: PlanError) -> str:
    listed = [{"loc": problem.loc, "msg": problem.msg, "input": problem.input} for problem in error.problems]
    return json.dumps({"problems": listed}, default=str)
