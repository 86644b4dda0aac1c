"""The interval of an answer whose trainer depends on something that a request does not state.

The answer is its high end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple

from calculator.methods.prepared_model import PreparedModel
from calculator.trainers import trainer_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.model import Model
    from calculator.devices import Verdict
    from calculator.estimation.answer import Estimate, Memory
    from calculator.estimation.request import Request


class FigureRange(NamedTuple):
    """The smallest and the largest value of a figure, in bytes."""

    low: int
    high: int


@dataclass(eq=False)
class MemoryInterval:
    """The memory of the high end, what decides the interval, and the low end.

    The low end is estimated when it is first read.
    """

    highest: Memory
    reasons: tuple[str, ...]
    find: Callable[[], Estimate]

    @cached_property
    def lowest(self) -> Estimate:
        """The answer of the low end."""
        return self.find()

    @property
    def lowest_verdict(self) -> Verdict | None:
        """The verdict of the low end. None without a device."""
        return None if self.lowest.fit is None else self.lowest.fit.verdict

    @property
    def peak_allocated_bytes(self) -> FigureRange:
        """The live bytes at the peak."""
        return self._interval_ends("peak_allocated_bytes")

    @property
    def peak_reserved_bytes(self) -> FigureRange:
        """Reserved memory."""
        return self._interval_ends("peak_reserved_bytes")

    @property
    def required_bytes(self) -> FigureRange:
        """Reserved memory and the CUDA context."""
        return self._interval_ends("required_bytes")

    def _interval_ends(self, name: str) -> FigureRange:
        high: int = getattr(self.highest, name)
        return FigureRange(min(high, getattr(self.lowest.memory, name)), high)


def with_interval(memory: Memory, request: Request, model: Model, find: Callable[[Request], Estimate]) -> Memory:
    """Return memory with the interval of which it is the high end, or unchanged if the answer is a single figure."""
    trainer, training = trainer_of(request.training), request.training
    if not trainer.facts.is_interval or not training.is_highest:
        return memory
    prepared = PreparedModel(model, request.method, training, request.device, request.stack)
    lowest = partial(find, replace(request, training=training.low_end))
    return replace(memory, interval=MemoryInterval(memory, tuple(trainer.reasons(prepared)), lowest))
