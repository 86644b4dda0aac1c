"""The result of the search for a limit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from calculator.common.deferred import Deferred

if TYPE_CHECKING:
    from calculator.limit_search.bounds import Bound, SolveFor
    from calculator.limit_search.probes import ProbeResult


def unknown() -> Deferred[int | None]:
    """Return None: no value that runs with retries is known."""
    return Deferred(lambda: None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The largest value that fits, its bound, and the estimates at that value and one step above.

    For `count`, it is the smallest value.
    """

    solve_for: SolveFor
    bound: Bound
    #: The estimate at the largest value that fits. None if no value fits.
    at: ProbeResult | None
    #: The estimate one step above `at`, or at the smallest value if none fits. None if that is refused.
    above: ProbeResult | None
    #: Which values were estimated.
    guarantee: str
    #: For `count`: the estimate at one less than `at`, or the run that needs the least of each GPU if none fits.
    below: ProbeResult | None = None
    warnings: tuple[str, ...] = ()
    #: The largest value found that runs, with or without retries, by replay. Otherwise None.
    running: Deferred[int | None] = field(default_factory=unknown, compare=False, repr=False)

    @property
    def value(self) -> int | None:
        """The largest value that fits. For `count`, the smallest."""
        return self.at.value if self.at else None

    @property
    def largest_with_retries(self) -> int | None:
        """The largest value found that runs, even if cached blocks are freed for a request. None by the rule."""
        return self.running()
