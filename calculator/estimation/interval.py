"""The interval of an answer whose trainer decides by what a request does not state. Its high end is the answer."""

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
    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import Request


class Ends(NamedTuple):
    """The least and the most bytes of a figure."""

    low: int
    high: int


@dataclass(eq=False)
class MemoryInterval:
    """What decides the interval, and its low end, which is estimated when it is read."""

    reasons: tuple[str, ...]
    find: Callable[[], Estimate]

    @cached_property
    def lowest(self) -> Estimate:
        """The answer of the low end."""
        return self.find()

    @property
    def lowest_verdict(self) -> Verdict | None:
        """The verdict of the low end; None without a device."""
        return None if self.lowest.fit is None else self.lowest.fit.verdict

    def ends(self, name: str, high: int) -> Ends:
        """Both ends of a figure of the memory; `high` is the answer's."""
        return Ends(min(high, getattr(self.lowest.memory, name)), high)


def interval_of(request: Request, model: Model, estimate: Callable[[Request], Estimate]) -> MemoryInterval | None:
    """The interval of a request's answer; None if the answer is a figure."""
    trainer, training = trainer_of(request.training), request.training
    if not trainer.facts.is_interval or not training.is_highest:
        return None
    prepared = PreparedModel(model, request.method, training, request.device, request.stack)
    lowest = replace(request, training=training.lowest)
    return MemoryInterval(tuple(trainer.reasons(prepared)), partial(estimate, lowest))
