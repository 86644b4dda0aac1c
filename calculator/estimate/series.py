"""What consecutive plans of a series share, so that only the differences are worked out again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.inputs.size_settings import other_settings
from calculator.training_step.resident_state import ResidentState
from calculator.training_step.symbolic_trace import Series

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.model import Model
    from calculator.estimate.request import ModelReference
    from calculator.inputs.training import Training
    from calculator.methods import Method


class SeriesCache:
    """What the plan before this one has in common with it: worked out again only where this one differs in it.

    Its model, what it holds, and the `series` of ways that plans of its kind go. An answer is the same with it and
    without. No more is kept than of one plan and its kind.
    """

    __slots__ = ("held", "key", "model", "reference", "series")

    def __init__(self) -> None:
        self.reference: ModelReference | None = None
        self.model: Model | None = None
        self.key: object = None
        self.held: ResidentState | None = None
        self.series = Series()

    def model_of(self, reference: ModelReference, build: Callable[[ModelReference], Model]) -> Model:
        """The model that a plan speaks of. Of two equal configs one may be refused: Python takes 1 for true."""
        before = self.reference
        if self.model is None or reference != before or reference.config is not before.config:
            self.model, self.reference = build(reference), reference
        return self.model

    def held_by(self, model: Model, method: Method, training: Training) -> ResidentState:
        """What a plan holds: the micro-batch and its length have no part in it."""
        key = (id(model), method, other_settings(training))
        if self.held is None or key != self.key:
            self.held, self.key = ResidentState(model, method, training), key
        return self.held
