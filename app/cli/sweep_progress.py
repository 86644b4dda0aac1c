"""The progress of a sweep: a counter on standard error, the exit status, and remarks on refused points."""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING, Any

from app.api.answers.sweep import cell
from calculator.devices import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.limit_search.sweep import Sweep

#: The interval between updates of the counter, in seconds.
UPDATE_SECONDS = 0.5

#: The maximum number of wrong values that are listed one by one.
MOST_LISTED = 10


class SweepProgress:
    """Counts the points of a grid as they pass.

    A value is wrong if its own field refuses it at every point that has it. r=hello is wrong; r=8 with prefix
    tuning, which has no r, is not.
    """

    def __init__(self, count: int, *, visible: bool) -> None:
        self.count, self.visible = count, visible
        self.answered = self.refused = 0
        #: Whether any point has a verdict, and whether any fits.
        self.has_verdict = self.fits = False
        self._first_problem: dict[str, Any] | None = None
        self._accepted: set[tuple[str, str]] = set()
        self._refused: dict[tuple[str, str], str] = {}

    def watch(self, sweep: Sweep, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the rows of a sweep, and print the counter if it is visible."""
        printed = monotonic()
        for number, (point, row) in enumerate(zip(sweep.points(), rows, strict=True), 1):
            self._count(point, row)
            if self.visible and (monotonic() - printed >= UPDATE_SECONDS or number == self.count):
                printed = monotonic()
                sys.stderr.write(f"\r{number:,} of {self.count:,} points" + "\n" * (number == self.count))
            yield row

    @property
    def status(self) -> int:
        """The exit status, once all points have passed."""
        if self._wrong() or not self.answered:
            return 2
        return int(self.has_verdict and not self.fits)

    def remarks(self) -> Iterator[str]:
        """Yield remarks on refused points, once all points have passed."""
        if self._first_problem is not None:
            first = f"{self._first_problem['loc']}: {self._first_problem['msg']}"
            are = "is" if self.refused == 1 else "are"
            yield f"{self.refused:,} of {self.count:,} points {are} refused, the first for {first}"
        wrong = self._wrong()
        for path, value in wrong[:MOST_LISTED]:
            yield f"No point can have {path} {value}: {self._refused[path, value]}"
        if len(wrong) > MOST_LISTED:
            yield f"Nor {len(wrong) - MOST_LISTED:,} more values of the grid"

    def _count(self, point: dict[str, Any], row: dict[str, Any]) -> None:
        problems = row["problems"]
        if row["memory"] is None:
            self.refused += 1
            self._first_problem = self._first_problem or problems[0]
        else:
            self.answered += 1
            fit = row["fit"]
            self.has_verdict = self.has_verdict or fit is not None
            self.fits = self.fits or (fit is not None and fit["verdict"] == Verdict.FITS)
        for path, value in point.items():
            key = (path, cell(value))
            refusal = next((problem for problem in problems if f"{problem['loc']}.".startswith(f"{path}.")), None)
            if refusal is None:
                self._accepted.add(key)
            else:
                self._refused.setdefault(key, refusal["msg"])

    def _wrong(self) -> list[tuple[str, str]]:
        return [key for key in self._refused if key not in self._accepted]
