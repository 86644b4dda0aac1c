"""Traces for a server: a bounded number at once, a bounded queue, and a cache of the last traces."""

from __future__ import annotations

import json
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import asdict
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING, Any

from app.engines import process
from app.engines.process import INTERVAL, AbandonedError
from calculator.estimation.traced.check import config_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.estimation.request import Request
    from calculator.estimation.traced.document import TraceDocument

#: The number of traces that run at once. Each keeps a core busy, and the server needs one too.
AT_ONCE = 2

#: The maximum number of traces that wait.
WAITING = 4

#: The number of traces in the cache. Each has up to some megabytes.
KEPT = 16


class BusyError(Exception):
    """Raised if too many traces wait already."""


class Tracer:
    """Traces requests. A trace depends neither on the device nor on how reserved memory is found."""

    def __init__(self, run: Callable[..., TraceDocument] = process.run) -> None:
        self._run = run
        self._places = BoundedSemaphore(AT_ONCE)
        self._queue = BoundedSemaphore(AT_ONCE + WAITING)
        self._kept: OrderedDict[str, TraceDocument] = OrderedDict()
        self._lock = Lock()

    def trace(self, request: Request, gone: Callable[[], bool], progress: Callable[[str], None]) -> TraceDocument:
        """Return the trace of a request.

        Raises:
            BusyError: if too many traces wait already.
            AbandonedError: if the client has disconnected.
            PlanError: if it is refused, or over a limit.
        """
        body = body_of(request)
        key = json.dumps(body, sort_keys=True)
        kept = self._kept_of(key)
        if kept is not None:
            return kept
        with self._turn(gone, progress):
            document = self._run(body, gone, progress)
        with self._lock:
            self._kept[key] = document
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return document

    def _kept_of(self, key: str) -> TraceDocument | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    @contextmanager
    def _turn(self, gone: Callable[[], bool], progress: Callable[[str], None]) -> Iterator[None]:
        """Wait in the queue for a place."""
        if not self._queue.acquire(blocking=False):
            raise BusyError
        try:
            if not self._places.acquire(blocking=False):
                progress("waiting for other traces")
                while not self._places.acquire(timeout=INTERVAL):
                    if gone():
                        raise AbandonedError
            try:
                yield
            finally:
                self._places.release()
        finally:
            self._queue.release()


def body_of(request: Request) -> dict[str, Any]:
    """Return the input of a trace, as the body of a request."""
    method = {"name": request.method.name, **asdict(request.method)}
    training = asdict(request.training)
    body = {"model": {"config": config_of(request.model)}, "method": method, "training": training, "engine": "traced"}
    task = {"task": request.task, "num_labels": request.num_labels, "problem_type": request.problem_type}
    return body if request.task == "causal_lm" else body | task
