"""A progress bar on standard error, if it is a terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress:
    """The number of `total` items that are done, and the time left. The line is cleared at the end."""

    def __init__(self, total: int, label: str) -> None:
        self._bar = RichProgress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            auto_refresh=False,  # a thread that refreshes would disturb what is traced
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task(label, total=total)
        self._bar.start()

    def step(self) -> None:
        """Count one more item as done."""
        self._bar.advance(self._task)
        self._bar.refresh()

    def close(self) -> None:
        """Clear the line."""
        self._bar.stop()
