"""Estimates of a request at several values of one setting, with reserved memory by the rule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from calculator.devices import Verdict
from calculator.estimation.estimate import estimate, training_step
from calculator.estimation.series import SeriesCache
from calculator.inputs.settings import declared
from calculator.inputs.training import Training
from calculator.limit_search.bisection import crossing
from calculator.limit_search.non_monotonic import higher
from calculator.resident.per_parameter import PerParameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import Request
    from calculator.limit_search.bounds import SolveFor
    from calculator.resident.per_parameter import ResidentTensors

#: Stop when the bracket is this close to the largest value whose tensors fit, as a fraction of it.
NEAR = 1 / 16

#: The maximum number of tensors, summed over all estimates, for one search next to an edge, and the minimum number of
#: values tried.
MAX_TENSORS = 50_000
MIN_TRIED = 24

#: The settings that are lengths. Kernels align to multiples of them.
LENGTHS = ("sequence_length", "num_virtual_tokens")

#: If one of these multiples fits, search for the last one that does.
STRIDES = (512, 64, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """The estimate with one value of the setting. The device has a GPU or a size."""

    value: int
    estimate: Estimate

    @property
    def fits(self) -> bool:
        """Whether the required memory is available."""
        return self.estimate.fit is not None and self.estimate.fit.verdict is Verdict.FITS

    @property
    def excess(self) -> int:
        """The required bytes beyond those that the GPU offers."""
        assert self.estimate.fit is not None
        return -self.estimate.fit.headroom_bytes

    @property
    def least_excess(self) -> int:
        """The excess without fragmentation: that of live tensors, workspaces and context."""
        memory = self.estimate.memory
        fragmentation = memory.peak_reserved_bytes - memory.peak_allocated_bytes - memory.library_workspace_bytes
        assert self.estimate.fit is not None
        fit = self.estimate.fit
        return max(self.excess - fragmentation, fit.awake_bytes - fit.usable_bytes)


class Probe(NamedTuple):
    """The figures of a probe."""

    value: int
    fits: bool
    excess: int
    least_excess: int


class Probes:
    """The estimated values of a setting by the rule, each estimated once.

    Values are counted in `unit`, which is more than 1 for a rank that must be a multiple of something. Only the figures
    of an estimate are kept, because an estimate has thousands of storages that the garbage collector would traverse
    again and again.
    """

    def __init__(self, request: Request, name: SolveFor) -> None:
        self.request, self.name = request, name
        self.series = SeriesCache(replays_several=True)
        self.tried: dict[int, Probe] = {}
        #: The bytes that the GPU offers, known after the first estimate.
        self.usable = 0
        #: The number that the setting must be a multiple of.
        self.unit = request.method.rank_multiple if name == "r" else 1
        #: The value in the request.
        self.requested = requested(request, name) // self.unit
        #: Tokens that are added to the value: virtual tokens to a sequence, or a sequence to virtual tokens.
        self.offset = _tokens(request) - self.requested if name in LENGTHS else 0

    @property
    def ruled(self) -> Probes:
        """The probes by the rule."""
        return self

    def point(self, value: int) -> ProbeResult:
        """Return the estimate with a value of the setting.

        Raises:
            PlanError: if it is refused.
        """
        point = ProbeResult(
            value=value * self.unit, estimate=estimate(self.with_value(self.request, value), self.series)
        )
        self.tried[value] = Probe(value, point.fits, point.excess, point.least_excess)
        assert point.estimate.fit is not None
        self.usable = point.estimate.fit.usable_bytes
        return point

    def with_value(self, request: Request, value: int) -> Request:
        """Return a request with a value of the setting, in units."""
        return with_value(request, self.name, value * self.unit)

    def probe(self, value: int) -> Probe:
        """Return the figures of a value.

        Raises:
            PlanError: if it is refused.
        """
        if value not in self.tried:
            self.point(value)
        return self.tried[value]

    def edge(self, low: int, high: int, *, near: float = 0) -> int:
        """Return a value from `low` on that fits and whose successor does not.

        `low` fits and `high` does not. With `near`, the first value that does not fit may be up to `near` times the
        returned one above it.
        """
        tried = sorted(self.tried.values())
        low = max(probe.value for probe in tried if low <= probe.value < high and probe.fits)
        high = min((probe.value for probe in tried if low < probe.value < high and not probe.fits), default=high)
        return crossing(lambda value: self.probe(value).excess, low, high, near=near)[0]

    def largest_below(self, low: int, high: int) -> int:
        """Return the largest value found that fits, from `low` on, or a value below `low` if none does.

        The live tensors of `low` fit, and `high` does not fit. If required memory is not monotonic, values at which
        less may be required are tried too.
        """
        best = self.edge(low, high) if self.probe(low).fits else low - 1
        return higher(self, best, high) if self.request.accounting == "exact" else best

    def first_without_room(self, low: int, high: int) -> int:
        """Return a value from which on not even the live tensors fit, close to the first such value.

        Return `high` if there is none. The live tensors of `low` fit, and `high` does not fit.
        """
        if self.probe(high).least_excess <= 0:
            return high
        return crossing(lambda value: self.probe(value).least_excess, low, high, near=NEAR)[1]

    def fits(self, value: int) -> bool:
        """Return whether the memory that a value requires is available."""
        return self.probe(value).fits

    @cached_property
    def budget(self) -> int:
        """The number of values that one search may estimate."""
        return max(MIN_TRIED, MAX_TENSORS // len(self.sizes(max(self.tried))[1]))

    def largest(self, likely: Iterable[int]) -> int | None:
        """Return the largest of some values that fits.

        The likeliest values come first, and only `budget` of them are estimated.
        """
        untried = list(dict.fromkeys(value for value in likely if value not in self.tried))[: self.budget]
        return next((value for value in sorted(untried, reverse=True) if self.fits(value)), None)

    def largest_before_failure(self, low: int, high: int) -> int:
        """Return a value from `low` on that fits while the next one does not. `low` fits and `high` does not.

        It first climbs in strides: multiples of what kernels align to.
        """
        for stride in STRIDES:
            for offset in {0, self.offset}:
                if (low + offset) % stride == 0:
                    low = self._last_fitting(low, high, stride)
        return self.edge(low, high)

    def _last_fitting(self, low: int, high: int, stride: int) -> int:
        steps = (high - 1 - low) // stride
        if steps < 1 or self.probe(low + steps * stride).fits:
            return low + steps * stride
        return low + stride * crossing(lambda step: self.probe(low + step * stride).excess, 0, steps)[0]

    def sizes(self, value: int) -> tuple[list[int], list[int]]:
        """Return the sizes of all tensors with a value of the setting.

        They are those of a step, and resident ones without the base.
        """
        step = training_step(self.with_value(self.request, value), self.series)
        resident = step.resident
        added = [tensor for tensor in resident.tensors if not tensor.base]
        rows = step.run.storages.sizes_of_rows
        kept = (*added, *resident.optimizer_states, *resident.sharding_tensors)
        allocated = (*resident.gradients, *resident.step_temporaries)
        return [*_tensor_sizes(kept)], [*rows, *_tensor_sizes(allocated)]


def _tensor_sizes(resident: Iterable[ResidentTensors]) -> Iterator[int]:
    """Yield the size of one tensor of each kind."""
    for group in resident:
        for tensor in group.of if isinstance(group, PerParameter) else (group,):
            yield tensor.bytes // tensor.count


def with_value(request: Request, name: str, value: Any) -> Request:
    """Return the request with another value of one setting.

    It is a setting of the training or of the method, or the number of GPUs.
    """
    change: dict[str, Any] = {name: value}
    if name == "count":
        return replace(request, device=replace(request.device, **change))
    if name in {field.name for field in declared(Training)}:
        return replace(request, training=replace(request.training, **change))
    method: Any = request.method
    return replace(request, method=replace(method, **change))


def requested(request: Request, name: str) -> int:
    """Return the value of one setting in a request."""
    owner = next(part for part in (request.training, request.method, request.device) if hasattr(part, name))
    return int(getattr(owner, name))


def _tokens(request: Request) -> int:
    """Return the number of tokens of a sequence, including virtual tokens."""
    return request.training.sequence_length + int(getattr(request.method, "num_virtual_tokens", 0))
