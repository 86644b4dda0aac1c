"""A progress bar on standard error, if it is a terminal."""

from __future__ import annotations

import sys
import time

WIDTH = 30


class Progress:
    """The number of `total` items that are done, and the time left: `[######......] 12/40 traced, 1:05 left`."""

    def __init__(self, total: int, label: str) -> None:
        self._total, self._label = total, label
        self._done = 0
        self._start = time.perf_counter()
        self._show()

    def step(self) -> None:
        """Count one more item as done."""
        self._done += 1
        self._show()

    def close(self) -> None:
        """Clear the line."""
        self._write("")

    def bar(self, seconds: float) -> str:
        """The bar's line, `seconds` after the start."""
        filled = WIDTH * self._done // max(1, self._total)
        shown = f"[{'#' * filled}{'.' * (WIDTH - filled)}] {self._done}/{self._total} {self._label}"
        if not self._done:
            return shown
        left = round(seconds / self._done * (self._total - self._done))
        return f"{shown}, {left // 60}:{left % 60:02} left"

    def _show(self) -> None:
        self._write(self.bar(time.perf_counter() - self._start))

    def _write(self, text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
