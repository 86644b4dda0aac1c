"""The limit on the CPU time of one answer. An answer that exceeds its budget ends with an error."""

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
    """Raised if an answer exceeds its budget of CPU time.

    It is no PlanError, which a search would treat as a refused plan.
    """

    def __init__(self, seconds: float, further: str = "") -> None:
        self.seconds = seconds
        super().__init__(
            f"the answer takes more than {seconds:g} seconds of CPU time, the limit of this server: set reserved to"
            f" rule, or request fewer models, devices, methods or passes{further}"
        )


class Budget:
    """A limit on the CPU time of an answer's threads, in seconds.

    The time of a thread counts from its first check. `further` is the end of the error's message.
    """

    __slots__ = ("_begun", "_spent", "further", "seconds")

    def __init__(self, seconds: float, further: str) -> None:
        self.seconds, self.further = seconds, further
        #: The CPU time of each thread at its first check, and the time that it has used since.
        self._begun: dict[int, float] = {}
        self._spent: dict[int, float] = {}

    def check(self) -> None:
        """Raise an OverBudgetError if the time is used up."""
        now, thread = thread_time(), get_ident()
        self._spent[thread] = now - self._begun.setdefault(thread, now)
        if sum(self._spent.values()) > self.seconds:
            raise OverBudgetError(self.seconds, self.further)

    def stop(self) -> None:
        """End the answer at its next check, for a client that no longer waits."""
        self._spent[-1] = inf


#: The budget of the current answer. None without a limit.
_BUDGET: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def limited(seconds: float, further: str = "") -> Iterator[None]:
    """Limit the CPU time of the answer inside the context. `further` ends the message of the error with advice."""
    token = _BUDGET.set(Budget(seconds, further))
    try:
        yield
    finally:
        _BUDGET.reset(token)


def current_budget() -> Budget | None:
    """Return the budget of the current answer. None without a limit."""
    return _BUDGET.get()


def check_budget() -> None:
    """Check the budget if one is set. Long loops call this once per iteration.

    Raises:
        OverBudgetError: if the answer has taken its time.
    """
    budget = _BUDGET.get()
    if budget is not None:
        budget.check()
