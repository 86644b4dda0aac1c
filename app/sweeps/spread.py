"""The rows of a sweep, computed by several processes in blocks of points, and read in order.

If a process dies, its blocks and those that wait behind them are computed again, so no row is lost.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from app.api.answers.sweep import row
from calculator.common.errors import refusal
from calculator.limit_search.sweep import Sweep, answers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from app.sweeps.backends import Processes

#: The points of a block: consecutive points share work, and a block takes a tenth of a second.
BLOCK = 128

#: The blocks that are computed before the first of them is read to its end, which bounds memory.
WINDOW = 64

#: How often a block is computed again after the process that had it died.
MOST_TRIES = 3


def rows(sweep: Sweep, processes: Processes) -> Iterator[dict[str, Any]]:
    """Yield the rows of a sweep in order, as `row` makes them.

    Raises:
        PlanError: if processes cannot be started, or die again and again at the same points.
    """
    starts = range(0, sweep.count, BLOCK)
    with processes.started() as returned, _Pool(returned) as pool:
        for first in range(0, len(starts), WINDOW):
            for lines in _window(sweep, starts[first : first + WINDOW], pool):
                yield from map(json.loads, lines)


class _Pool:
    """The processes of joblib. They are reused from window to window, because ray's take seconds to start."""

    def __init__(self, returned: str) -> None:
        self._returned = returned
        self._stack = ExitStack()
        self._parallel: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def run(self, tasks: Iterable[Any]) -> Iterator[list[str]]:
        """Return the results of tasks in order."""
        from joblib import Parallel  # noqa: PLC0415  an extra installs it

        if self._parallel is None:
            self._parallel = self._stack.enter_context(Parallel(return_as=self._returned, batch_size=1))
        results: Iterator[list[str]] = iter(self._parallel(tasks))
        return results

    def close(self) -> None:
        """End the processes. The next tasks start others."""
        self._parallel = None
        self._stack.close()


def _window(sweep: Sweep, starts: range, pool: _Pool) -> Iterator[list[str]]:
    """Yield the lines of blocks in order."""
    from joblib import delayed  # noqa: PLC0415  an extra installs it

    tries = 0
    while starts:
        done = 0
        tasks = (delayed(lines_of)(dict(sweep.request), dict(sweep.grid), start) for start in starts)
        try:
            for lines in pool.run(tasks):
                done += 1
                yield lines
        except Exception as error:
            if not _is_death(error):
                raise
            pool.close()
            tries = 1 if done else tries + 1
            if tries >= MOST_TRIES:
                raise _given_up(starts[done], error) from error
        starts = starts[done:]


def lines_of(request: Mapping[str, Any], grid: Mapping[str, tuple[Any, ...]], start: int) -> list[str]:
    """Return the rows of a block as JSON, in the process that computes them."""
    swept = answers(Sweep(request=request, grid=grid), start, start + BLOCK)
    return [json.dumps(row(point)) for point in swept]


def _is_death(error: Exception) -> bool:
    """Return whether an error is that of a process that ended: of joblib's loky, of dask, or of ray."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"BrokenProcessPool", "BrokenExecutor", "KilledWorker", "RayActorError", "WorkerCrashedError"})


def _given_up(start: int, error: Exception) -> Exception:
    message = (
        f"the process that computed points {start:,} to {start + BLOCK - 1:,} ended {MOST_TRIES} times"
        f" ({type(error).__name__}), most often because memory ran out: use fewer --jobs, or leave these points out"
    )
    return refusal("grid", message)
