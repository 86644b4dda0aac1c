"""A trace in a process with limits. The process is killed if it takes too long or the client leaves."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from subprocess import DEVNULL, PIPE, Popen
from threading import Thread
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError, Problem, refusal
from calculator.estimation.traced.document import TraceDocument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The maximum CPU time of a trace, in seconds. Qwen3-Next 80B, the slowest published model that was tried, takes 60.
CPU_SECONDS = 240

#: The maximum elapsed time in seconds: twice the CPU time, for a machine with another process per core.
WALL_SECONDS = 480

#: The seconds between two checks of whether a client still waits for a trace.
INTERVAL = 0.25

#: The module that the process runs.
COMMAND = (sys.executable, "-m", "validation", "traced")

#: Where `validation` is, in a checkout and in an installed copy.
PACKAGES = Path(__file__).resolve().parents[2]

#: The environment of the process: no hub, no GPU, one thread.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

#: What to do if a trace takes too long.
_WAY_OUT = "use a config with fewer layers"


class AbandonedError(Exception):
    """Raised if the client has disconnected."""


def run(
    body: dict[str, Any],
    gone: Callable[[], bool],
    progress: Callable[[str], None],
    *,
    cpu_seconds: int = CPU_SECONDS,
    wall_seconds: float = WALL_SECONDS,
    command: tuple[str, ...] = COMMAND,
) -> TraceDocument:
    """Trace the step of a request's body.

    `gone` returns whether the client has disconnected. `progress` is called with what runs. `command` starts the
    process.

    Raises:
        PlanError: if the request is refused, or the trace is over a limit.
        AbandonedError: if the client has disconnected.
    """
    deadline = time.monotonic() + wall_seconds
    with _process([*command, "--cpu-seconds", str(cpu_seconds)]) as process:
        lines = _sent(process, body)
        while True:
            try:
                line = lines.get(timeout=INTERVAL)
            except Empty:
                if gone():
                    raise AbandonedError from None
                if time.monotonic() > deadline:
                    message = f"the trace takes more than {wall_seconds:,.0f} seconds, its limit: {_WAY_OUT}"
                    raise refusal("model", message) from None
                continue
            if line is None:
                raise _died(process.wait(), cpu_seconds)
            document = _read(line, progress)
            if document is not None:
                return document


def _read(line: str, progress: Callable[[str], None]) -> TraceDocument | None:
    """Return the document in a line. None for a line of progress."""
    if line.startswith('{"document":'):
        return TraceDocument.from_json(line.removeprefix('{"document":').rstrip().removesuffix("}"))
    answer = json.loads(line)
    if "problems" in answer:
        raise PlanError(*(Problem(**problem) for problem in answer["problems"]))
    progress(answer["progress"])
    return None


@contextmanager
def _process(command: list[str]) -> Iterator[Popen[str]]:
    """Start a process. At the end of the context, kill it and all that it started."""
    places = (str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(places)}
    with Popen(  # noqa: S603  our own interpreter and module
        command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, text=True, encoding="utf-8", env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _sent(process: Popen[str], body: dict[str, Any]) -> SimpleQueue[str | None]:
    """Return a queue of the lines that a process writes about a body. None is the last item."""
    lines: SimpleQueue[str | None] = SimpleQueue()

    def follow() -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with process.stdin as stdin:
                json.dump(body, stdin)
            for line in process.stdout:
                lines.put(line)
        except (BrokenPipeError, ValueError):
            pass
        finally:
            lines.put(None)

    Thread(target=follow, daemon=True).start()
    return lines


def _died(status: int, cpu_seconds: int) -> PlanError:
    """Return the error for a process that ended without an answer."""
    if -status == signal.SIGXCPU:
        message = f"the trace takes more than {cpu_seconds:,} seconds of CPU time, its limit: {_WAY_OUT}"
        return refusal("model", message)
    message = f"the trace ended with status {status}, most often because memory ran out: {_WAY_OUT}"
    return refusal("model", message)
