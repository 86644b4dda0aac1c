"""A plan at several values of one setting."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from calculator.devices import Verdict
from calculator.estimate.estimate import estimate, training_step
from calculator.estimate.series import SeriesCache
from calculator.inputs.settings import declared
from calculator.inputs.training import Training
from calculator.limits.bisection import crossing
from calculator.resident.per_parameter import PerParameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.estimate.answer import Estimate
    from calculator.estimate.request import Request
    from calculator.resident.per_parameter import ResidentTensors

#: How near to the last value whose tensors fit it is enough to come, as a share of it.
NEAR = 1 / 16

#: Values that are replayed of those at which less may be required: a replay takes as long as some dozens of estimates.
REPLAYED = 8

#: Estimates of so many of a step's tensors are made beside an edge, and of no fewer values than the other says.
MOST_TENSORS = 50_000
LEAST_TRIED = 24

#: Multiples of these are searched for the last one that fits, where one does.
STRIDES = (512, 64, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """The plan with one value of the setting; its device names a card or a size."""

    value: int
    estimate: Estimate

    @property
    def fits(self) -> bool:
        """Whether what is required is within what the card offers."""
        return self.estimate.fit is not None and self.estimate.fit.verdict is Verdict.FITS

    @property
    def excess(self) -> int:
        """What is required beyond what the card offers, bytes."""
        assert self.estimate.fit is not None
        return -self.estimate.fit.headroom_bytes

    @property
    def least_excess(self) -> int:
        """The same without the allocator's slack: live tensors, workspaces and context."""
        memory = self.estimate.memory
        slack = memory.peak_reserved_bytes - memory.peak_allocated_bytes - memory.library_workspace_bytes
        return self.excess - slack


class Probe(NamedTuple):
    """What is kept of a point: its figures."""

    value: int
    fits: bool
    excess: int
    least_excess: int


class Probes:
    """The values of a setting that were tried, each estimated once.

    No more is kept of a point than its figures: each has thousands of storages, which Python's garbage collector would
    look at again and again. But those that were `replayed` are kept, being few and dear.
    """

    def __init__(self, request: Request, name: str) -> None:
        self.request, self.name = request, name
        self.series = SeriesCache()
        self.tried: dict[int, Probe] = {}
        self.replayed: dict[int, ProbeResult] = {}
        self.ruled = Probes(replace(request, reserved="rule"), name) if request.reserved == "replay" else None
        self.replays = REPLAYED
        self.asked = asked(request, name)
        self.beside = _tokens(request) - self.asked if name in ("sequence_length", "num_virtual_tokens") else 0

    def point(self, value: int) -> ProbeResult:
        """The plan with a value of the setting.

        Raises:
            PlanError: where that plan is refused.
        """
        if value in self.replayed:
            return self.replayed[value]
        request = with_value(self.request, self.name, value)
        point = ProbeResult(value=value, estimate=estimate(request, self.series))
        self.tried[value] = Probe(value, point.fits, point.excess, point.least_excess)
        if self.ruled is not None:
            self.replayed[value] = point
        return point

    def at(self, value: int) -> Probe:
        """The figures of a value's point.

        Raises:
            PlanError: where the plan with it is refused.
        """
        if value not in self.tried:
            self.point(value)
        return self.tried[value]

    def edge(self, low: int, high: int) -> int:
        """A value from `low` on that fits while the next does not; `low` fits and `high` does not."""
        tried = sorted(self.tried.values())
        low = max(probe.value for probe in tried if low <= probe.value < high and probe.fits)
        high = min((probe.value for probe in tried if low < probe.value < high and not probe.fits), default=high)
        return crossing(lambda value: self.at(value).excess, low, high)[0]

    def beyond(self, low: int, high: int) -> int:
        """A value, soon after the last one whose live tensors fit, from which on none does; `high` where there is none.

        With `low` the live tensors fit, and `high` does not fit.
        """
        if self.by_rule(high).least_excess <= 0:
            return high
        return crossing(lambda value: self.by_rule(value).least_excess, low, high, near=NEAR)[1]

    def by_rule(self, value: int) -> Probe:
        """The plan with a value of the setting, and reserved memory by the rule: its live tensors are the same."""
        return self.at(value) if self.ruled is None else self.ruled.at(value)

    def fits(self, value: int) -> bool:
        """Whether a value fits, which is not replayed where not even the live tensors do."""
        return self.by_rule(value).least_excess <= 0 and self.at(value).fits

    @cached_property
    def most(self) -> int:
        """How many values can be tried in good time."""
        return max(LEAST_TRIED, MOST_TENSORS // len(self.sizes(max(self.tried))[1]))

    def largest(self, likely: Iterable[int], spread: Iterable[int]) -> int | None:
        """The largest that fits of some values, the likeliest first, as many as are tried in good time.

        Of those that are replayed, a spread is tried and what the rule finds most likely.
        """
        untried = list(dict.fromkeys(value for value in likely if value not in self.tried))[: self.most]
        if self.ruled is not None:
            untried = sorted(untried, key=lambda value: self.by_rule(value).excess)[: self.replays]
            self.replays -= len(untried)
            untried += spread
        return next((value for value in sorted(untried, reverse=True) if self.fits(value)), None)

    def climb(self, low: int, high: int) -> int:
        """A value from `low` on that fits while the next does not; `low` fits and `high` does not.

        First by strides that what kernels align to stays a multiple of.
        """
        for stride in () if self.ruled else STRIDES:
            for beside in {0, self.beside}:
                if (low + beside) % stride == 0:
                    low = self._last(low, high, stride)
        return self.edge(low, high)

    def _last(self, low: int, high: int, stride: int) -> int:
        most = (high - 1 - low) // stride
        if most < 1 or self.at(low + most * stride).fits:
            return low + most * stride
        return low + stride * crossing(lambda step: self.at(low + step * stride).excess, 0, most)[0]

    def sizes(self, value: int) -> tuple[list[int], list[int]]:
        """The size of every tensor with a value of the setting: of what is kept beside the base, and of a step's."""
        step = training_step(with_value(self.request, self.name, value), self.series)
        resident = step.resident
        added = [tensor for tensor in resident.tensors if not tensor.base]
        rows = [born[4] for born in step.run.tape.rows]
        kept, made = (*added, *resident.optimizer_states), (*resident.gradients, *resident.step_temporaries)
        return [*_each(kept)], [*rows, *_each(made)]


def _each(staying: Iterable[ResidentTensors]) -> Iterator[int]:
    """The size of one of each kind of tensors that stay."""
    for each in staying:
        for tensor in each.of if isinstance(each, PerParameter) else (each,):
            yield tensor.bytes // tensor.count


def with_value(request: Request, name: str, value: Any) -> Request:
    """The plan with another value of one setting, of its training or else of its method."""
    change: dict[str, Any] = {name: value}
    if name in {told.name for told in declared(Training)}:
        return replace(request, training=replace(request.training, **change))
    method: Any = request.method
    return replace(request, method=replace(method, **change))


def asked(request: Request, name: str) -> int:
    """The value that a plan has of one setting."""
    return int(getattr(request.training if hasattr(request.training, name) else request.method, name))


def _tokens(request: Request) -> int:
    """Tokens of a sequence, the virtual ones among them."""
    return request.training.sequence_length + int(getattr(request.method, "num_virtual_tokens", 0))
