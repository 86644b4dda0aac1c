"""The CPU time that one answer may take. Where a budget is set, an answer that takes longer ends with an error."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from threading import get_ident
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
    """Seconds of CPU time of threads, from the first check of each. `further` ends the error's text."""

    __slots__ = ("_begun", "_spent", "further", "seconds")

    def __init__(self, seconds: float, further: str) -> None:
        self.seconds, self.further = seconds, further
        #: The CPU time of each thread at its first check, and since then.
        self._begun: dict[int, float] = {}
        self._spent: dict[int, float] = {}

    def check(self) -> None:
        """Raise the error if the time is over."""
        now, thread = thread_time(), get_ident()
        self._spent[thread] = now - self._begun.setdefault(thread, now)
        if sum(self._spent.values()) > self.seconds:
            raise OverBudgetError(self.seconds, self.further)

    def stop(self) -> None:
        """End the answer at its next check, since nobody waits for it."""
        self._spent[-1] = inf


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


def current_budget() -> Budget | None:
    """The budget of the answer that is computed."""
    return _BUDGET.get()


def check_budget() -> None:
    """Check the budget, where one is set. Loops that can be long call this once a turn.

    Raises:
        OverBudgetError: if the answer has taken its time.
    """
    budget = _BUDGET.get()
    if budget is not None:
        budget.check()
