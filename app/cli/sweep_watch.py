"""A sweep's points looked at on their way: how far they are, whether any fits, and which values none can have."""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING

from app.api.answers.sweep import cell
from calculator.devices import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.common.errors import Problem
    from calculator.limits.sweep import Swept

#: How often progress is told, in seconds.
TOLD_SECONDS = 0.5

#: The most values that are told one by one.
MOST_TOLD = 10


class Watch:
    """What is seen of a grid's points while they pass.

    A value is wrong where its own field refuses it at every point that has it: r=hello, and not an r of LoRA beside
    prefix tuning, which has none.
    """

    def __init__(self, count: int, *, shown: bool) -> None:
        self.count, self.shown = count, shown
        self.answered = self.refused = 0
        self.held = self.fits = False
        self._first: Problem | None = None
        self._taken: set[tuple[str, str]] = set()
        self._refused: dict[tuple[str, str], str] = {}

    def watched(self, points: Iterator[Swept]) -> Iterator[Swept]:
        """The points as they come, with progress on standard error where it is shown."""
        printed = monotonic()
        for number, swept in enumerate(points, 1):
            self._see(swept)
            if self.shown and (monotonic() - printed >= TOLD_SECONDS or number == self.count):
                printed = monotonic()
                sys.stderr.write(f"\r{number:,} of {self.count:,} points" + "\n" * (number == self.count))
            yield swept

    @property
    def status(self) -> int:
        """The sweep's exit status, once the points are through."""
        if self._wrong() or not self.answered:
            return 2
        return int(self.held and not self.fits)

    def remarks(self) -> Iterator[str]:
        """What is worth knowing of refused points, once they are through."""
        if self._first is not None:
            first = f"{self._first.loc}: {self._first.msg}"
            are = "is" if self.refused == 1 else "are"
            yield f"{self.refused:,} of {self.count:,} points {are} refused, the first for {first}"
        wrong = self._wrong()
        for path, value in wrong[:MOST_TOLD]:
            yield f"No point can have {path} {value}: {self._refused[path, value]}"
        if len(wrong) > MOST_TOLD:
            yield f"Nor {len(wrong) - MOST_TOLD:,} more values of the grid"

    def _see(self, swept: Swept) -> None:
        if swept.estimate is None:
            self.refused += 1
            self._first = self._first or swept.problems[0]
        else:
            self.answered += 1
            fit = swept.estimate.fit
            self.held = self.held or fit is not None
            self.fits = self.fits or (fit is not None and fit.verdict is Verdict.FITS)
        for path, value in swept.point.items():
            key = (path, cell(value))
            own = next((problem for problem in swept.problems if f"{problem.loc}.".startswith(f"{path}.")), None)
            if own is None:
                self._taken.add(key)
            else:
                self._refused.setdefault(key, own.msg)

    def _wrong(self) -> list[tuple[str, str]]:
        return [key for key in self._refused if key not in self._taken]
