"""A cache of results for requests that differ in sizes alone.

A result is computed for the first sizes, or traced with symbolic sizes.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from calculator.common.deferred import Deferred
from calculator.engine.symbolic_sizes import ShapeEnv
from calculator.inputs.size_settings import other_settings, resized, sizes
from calculator.methods.prepared_model import PreparedModel
from calculator.sharding.registry import SHARDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from calculator.inputs.training import Training
    from calculator.methods.base import Method

#: The maximum number of traces that are kept for requests that differ in sizes alone.
MAX_TRACES = 8

AnyMethod = TypeVar("AnyMethod", bound="Method")
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class Traced(Protocol[Result_co]):
    """A trace with symbolic sizes."""

    def with_sizes(self, sizes: Sequence[int]) -> Result_co | None:
        """Return the result for other sizes, or None if a guard fails."""


class SizeCache(Generic[Result]):
    """A cache of results for requests that differ in sizes alone.

    With `traces_first`, the first request is traced too, and the last result is cached for requests of the same sizes.
    Otherwise the first request is computed without a trace and its result is cached. Other sizes are traced.
    """

    __slots__ = ("kept", "traces", "traces_first")

    def __init__(self, *, traces_first: bool = False) -> None:
        self.traces_first = traces_first
        #: The sizes and the result of the first request, or of the last one with `traces_first`.
        self.kept: tuple[Deferred[tuple[int, ...]], Result] | None = None
        #: The traces. The one that gave the last result comes first.
        self.traces: list[Traced[Result]] = []

    def result(
        self,
        prepared: PreparedModel,
        plain: Callable[[PreparedModel], Result],
        traced: Callable[[ShapeEnv, PreparedModel], Traced[Result]],
    ) -> Result | None:
        """Return the result of a request, or None if no guards hold and there are too many traces."""

        def symbolically(shape_env: ShapeEnv, given: Training, method: Method) -> Traced[Result]:
            symbolic = PreparedModel(prepared.model, method, given, prepared.device, prepared.stack)
            return traced(shape_env, symbolic)

        return self.for_settings(prepared.given, prepared.method, partial(plain, prepared), symbolically)

    def for_settings(
        self,
        training: Training,
        method: AnyMethod,
        plain: Callable[[], Result],
        traced: Callable[[ShapeEnv, Training, AnyMethod], Traced[Result]],
    ) -> Result | None:
        """Return the result for a training and a method. Their sizes are symbolic when they are traced."""
        settings = Deferred(partial(_sizes, training, method))  # read when a second request is compared
        if self.kept is None and not self.traces_first:
            first = plain()
            self.kept = settings, first
            return first
        if self.kept is not None and settings == self.kept[0]:
            return self.kept[1]
        result = self._evaluate_traces(settings())
        if result is None and len(self.traces) < MAX_TRACES:
            shape_env = ShapeEnv()
            symbolic = resized(training, shape_env.create_symint), resized(method, shape_env.create_symint)
            self.traces.insert(0, traced(shape_env, *symbolic))
            result = self.traces[0].with_sizes(settings())
        if self.traces_first and result is not None:
            self.kept = settings, result
        return result

    def _evaluate_traces(self, sizes: Sequence[int]) -> Result | None:
        """Return the result of a trace whose guards hold, which is tried first for the next sizes."""
        for number, trace in enumerate(self.traces):
            result = trace.with_sizes(sizes)
            if result is not None:
                if number:
                    self.traces.insert(0, self.traces.pop(number))
                return result
        return None


def _sizes(training: Training, method: Method) -> tuple[int, ...]:
    return sizes(training) + sizes(method)


def settings_of(prepared: PreparedModel) -> tuple[object, ...]:
    """Return all settings of the method, the training, the GPU and the stack that are not sizes."""
    device = prepared.device
    shards = device.sharded_over if device.sharding in SHARDS else device.sharding
    given = other_settings(prepared.given)
    return other_settings(prepared.method), given, prepared.kernels, prepared.stack, shards
