"""The CPU time that one answer may take. Where a budget is set, an answer that takes longer ends with an error."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from time import thread_time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class OverBudgetError(Exception):
    """An answer takes more CPU time than its budget. Not a refusal of a plan, which a search would pass over."""

    def __init__(self, seconds: float, further: str = "") -> None:
        self.seconds = seconds
        super().__init__(
            f"the answer takes more than {seconds:g} seconds of CPU time, the limit of this server: set reserved to"
            f" rule, or request fewer models, devices, methods or passes{further}"
        )


class Budget:
    """Seconds of CPU time of the thread that computes, from the first check on. `further` ends the error's text."""

    __slots__ = ("_end", "further", "seconds")

    def __init__(self, seconds: float, further: str) -> None:
        self.seconds, self.further = seconds, further
        self._end: float | None = None

    def check(self) -> None:
        """Raise the error if the time is over."""
        now = thread_time()
        if self._end is None:
            self._end = now + self.seconds
        if now > self._end:
            raise OverBudgetError(self.seconds, self.further)


#: The budget of the answer that is computed; None without a limit.
_BUDGET: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def limited(seconds: float, further: str = "") -> Iterator[None]:
    """Limit the answer that is computed in the context. `further` is a way out that the error names last."""
    token = _BUDGET.set(Budget(seconds, further))
    try:
        yield
    finally:
        _BUDGET.reset(token)


def check_budget() -> None:
    """Check the budget, where one is set. Loops that can be long call this once a turn.

    Raises:
        OverBudgetError: if the answer has taken its time.
    """
    budget = _BUDGET.get()
    if budget is not None:
        budget.check()
