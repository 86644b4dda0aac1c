"""Replays of a request at several values of one setting. Only the values that its limit needs are replayed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.devices import Verdict
from calculator.estimation.estimate import device_replay, estimate, training_step
from calculator.estimation.request import reserved_by
from calculator.estimation.sample_lengths import with_longest_batch
from calculator.limit_search.bisection import crossing
from calculator.limit_search.probes import LENGTHS, ProbeResult, Probes

if TYPE_CHECKING:
    from calculator.estimation.device_replay import DeviceReplay
    from calculator.estimation.request import Request
    from calculator.limit_search.bounds import SolveFor

#: The first step of a search, as a fraction of its range.
NEAR = 16

#: Which values above one that does not fit are tried: the next multiple of this, and this many values at equal
#: distances.
ALIGNED = 8
PARTS = 2

#: How close to the largest length that fits by the rule the search begins, as a fraction of it.
ROUGHLY = 1 / 64

#: The maximum number of values that are replayed to find the largest one that runs at all.
RETRIED = 4


class Replays:
    """The values of a setting that are replayed.

    What is certain without a replay comes from the rule's probes. If not even the live tensors of a value fit, it does
    not run. The others are compared by what they reserve on an unlimited device. The search begins at the largest value
    that fits by the rule, or near it.
    """

    def __init__(self, ruled: Probes) -> None:
        self.ruled = ruled
        self.request = replace(ruled.request, reserved="replay")
        #: The excess of each value that was replayed.
        self.tried: dict[int, int] = {}
        #: The bytes reserved beyond the live tensors in the last replay.
        self._fragmented = 0

    def point(self, value: int) -> ProbeResult:
        """Return the estimate with a value of the setting.

        Raises:
            PlanError: if it is refused.
        """
        request = self.ruled.with_value(self.request, value)
        return ProbeResult(value=value * self.ruled.unit, estimate=estimate(request, self.ruled.series))

    def fits(self, value: int) -> bool:
        """Return whether a value runs without a retry.

        Raises:
            PlanError: if it is refused.
        """
        return self.excess(value) <= 0

    def excess(self, value: int) -> int:
        """Return the bytes beyond those that the GPU offers.

        It is an approximation if not even the live tensors fit.
        """
        live = self.ruled.probe(value).least_excess
        if value not in self.tried:
            if live > 0:
                return live + self._fragmented
            self.tried[value] = self._replayed(value)
            self._fragmented = self.tried[value] - live
        return self.tried[value]

    def _replayed(self, value: int) -> int:
        replay, usable = self._replay(value), self.ruled.usable
        excess = replay.peak_reserved_bytes + replay.context_bytes - usable
        # On a small device, the load requests something else, and the allocator's settings determine when it frees.
        if excess <= 0 and replay.outcome(usable).verdict is not Verdict.FITS:
            return 1
        return excess

    def largest_below(self, low: int, high: int) -> int:
        """Return the largest value found that fits, from `low` on, or a value below `low` if none does.

        The live tensors of `low` fit, and `high` does not fit. What a run reserves is mostly monotonic in the value.
        Some of the values at which it may not be are tried too.
        """
        best = self._edge(low, high)
        higher = next(
            (value for value in sorted(self._other_candidates(best, high), reverse=True) if self.fits(value)), None
        )
        if higher is None:
            return best
        return crossing(self.excess, higher, min(self._without_room(higher), high))[0]

    def _edge(self, low: int, high: int) -> int:
        """Return a value that fits and whose successor does not, or a value below `low` if `low` does not fit.

        The last length that fits of those that kernels align to is found first, because others may need more.
        """
        near = ROUGHLY if self._unit > 1 else 0
        start = self.ruled.edge(low, high, near=near) if self.ruled.probe(low).fits else low
        start = max(low, self._aligned(start))
        step = max(1, (start - low) // NEAR)
        while not self.fits(start):
            if start == low:
                return low - 1
            start, high = max(low, self._aligned(start - step)), start
            step *= 2
        if self._unit > 1 and start == self._aligned(start):
            start, high = self._aligned_edge(start, high)
            if high == start + 1 or not self.fits(start + 1):
                return start
            start += 1
        return crossing(self.excess, start, high)[0]

    @property
    def _unit(self) -> int:
        """What kernels align lengths to. 1 for values that are no lengths."""
        return ALIGNED if self.ruled.name in LENGTHS else 1

    def _aligned(self, value: int) -> int:
        """Return the last value up to `value` that kernels align to."""
        return value - (value + self.ruled.offset) % self._unit

    def _aligned_edge(self, low: int, high: int) -> tuple[int, int]:
        """Return a value that kernels align to and that fits, and the next such value or `high`, which does not fit.

        `low` is aligned to and fits. `high` does not fit.
        """
        unit = self._unit
        steps = (high - 1 - low) // unit
        last = low + steps * unit
        if self.fits(last):
            return last, high
        fitting, after = crossing(lambda step: self.excess(low + step * unit), 0, steps)
        return low + fitting * unit, low + after * unit

    def _other_candidates(self, best: int, high: int) -> set[int]:
        """Return values between the next one and `high` that may fit although the next one does not.

        They are the request's own value, the next one that kernels align to, and some at equal distances.
        """
        probes = self.ruled
        values = {self._next_aligned(best + 2, offset) for offset in (0, probes.offset)}
        spread = (best + (high - best) * part // (PARTS + 1) for part in range(1, PARTS + 1))
        values |= {*map(self._aligned, spread), probes.requested}
        return {value for value in values if best + 1 < value < high and probes.probe(value).least_excess <= 0}

    def _next_aligned(self, low: int, offset: int) -> int:
        """Return the first value from `low` on that kernels align to with an offset.

        Of lengths, return the first one that was not tried.
        """
        value = -(-(low + offset) // ALIGNED) * ALIGNED - offset
        while self._unit > 1 and value in self.tried:
            value += ALIGNED
        return value

    def _without_room(self, value: int) -> int:
        """Return the first larger value that was replayed and does not fit."""
        return min((tried for tried, excess in self.tried.items() if tried > value and excess > 0), default=1 << 62)

    def largest_with_retries(self, fits: int, high: int) -> int:
        """Return the largest value found that runs, with or without retries, from the largest that fits on.

        Not even the live tensors of `high` fit, or it is the largest possible value. At most `RETRIED` values are
        replayed in addition to the next one. They may be too few to find a value whose successor does not run.
        """
        if self.runs(high):
            return high
        low = fits + self.runs(fits + 1)
        step, near = max(1, (high - low) // NEAR), True
        for _ in range(RETRIED if low > fits else 0):
            if high - low <= 1:
                break
            middle = low + step if near and low + step < high else (low + high) // 2
            if self.runs(middle):
                low, step = middle, step * 2
            else:
                high, near = middle, False
        return low

    def runs(self, value: int) -> bool:
        """Return whether a value runs, with or without retries."""
        live = self.ruled.probe(value).least_excess
        return live <= 0 and self._replay(value).outcome(self.ruled.usable).verdict is not Verdict.DOES_NOT_FIT

    def _replay(self, value: int) -> DeviceReplay:
        request = with_longest_batch(self.ruled.with_value(self.request, value))
        series = self.ruled.series
        return device_replay(request, training_step(request, series), series)


def search_of(request: Request, name: SolveFor) -> Probes | Replays:
    """Return the search for the limit. Textbook accounting has no run to replay."""
    probes = Probes(replace(request, reserved="rule") if request.accounting == "exact" else request, name)
    replayed = (
        reserved_by(request.reserved, request.device, request.training) == "replay" and request.accounting == "exact"
    )
    return Replays(probes) if replayed else probes
