"""Blocks `sys._current_frames` while a step is interpreted.

A tensor of the interpreted step is freed when its last reference goes, as in PyTorch. A frame keeps its local variables
alive. A sampling profiler in another thread that reads `sys._current_frames` would therefore keep tensors alive, and
peaks would be too high. Such a read waits until no step is interpreted. Profilers that run in another process take no
references.
"""

from __future__ import annotations

import os
import sys
from functools import wraps
from threading import Condition, RLock, local
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

P = ParamSpec("P")
R = TypeVar("R")


class FrameSnapshots:
    """Reads of the frames of all threads, and the interpretations that they wait for.

    A read waits for the running interpretations. Interpretations that begin meanwhile wait for the read.
    """

    def __init__(self) -> None:
        self._read = sys._current_frames  # noqa: SLF001
        self._forget_threads()

    def forget_threads(self) -> None:
        """Forget the interpretations of threads that do not exist in a forked process."""
        if self._running:
            sys._current_frames = self._read  # noqa: SLF001
        self._forget_threads()

    def _forget_threads(self) -> None:
        # A lock by itself is faster than that of a condition, whose methods are written in Python.
        self._lock, self._thread = RLock(), local()
        self._changed = Condition(self._lock)
        self._running = self._reads = 0

    def begin(self) -> bool:
        """Begin an interpretation.

        Return whether it is the outermost one of this thread.
        """
        if getattr(self._thread, "interprets", False):
            return False
        with self._lock:
            while self._reads:
                self._changed.wait()
            if not self._running:
                self._read, sys._current_frames = sys._current_frames, self.read  # noqa: SLF001
            self._running += 1
        self._thread.interprets = True
        return True

    def end(self) -> None:
        """End the interpretation of this thread."""
        self._thread.interprets = False
        with self._lock:
            self._running -= 1
            if not self._running:
                sys._current_frames = self._read  # noqa: SLF001
                if self._reads:
                    self._changed.notify_all()

    def read(self) -> dict[int, FrameType]:
        """Return the value of `sys._current_frames`, once no other thread interprets a step."""
        if getattr(self._thread, "interprets", False):
            return self._read()
        with self._lock:
            self._reads += 1
            try:
                self._changed.wait_for(lambda: not self._running)
                return self._read()
            finally:
                self._reads -= 1
                self._changed.notify_all()


SNAPSHOTS = FrameSnapshots()
os.register_at_fork(after_in_child=SNAPSHOTS.forget_threads)


def without_frame_snapshots(interpret: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that interprets a step, so that no other thread reads its frames while it runs."""

    @wraps(interpret)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not SNAPSHOTS.begin():
            return interpret(*args, **kwargs)
        try:
            return interpret(*args, **kwargs)
        finally:
            SNAPSHOTS.end()

    return call
