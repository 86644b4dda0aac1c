"""What a run holds whatever its batch, and what plans asked for one after the other have of it in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.beside import gradients, optimizer_states
from calculator.optimizers import OPTIMIZERS
from calculator.sizes import others
from calculator.state import stored
from calculator.step.optimizer_step import temporaries
from calculator.step.template import Series
from calculator.treatment import Treated

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.methods import Method
    from calculator.model import Model
    from calculator.request import ModelReference
    from calculator.training import Training


class Held:
    """Weights and what is put beside them, and of what is trained the gradients, states and a step's temporaries."""

    __slots__ = ("gradients", "optimizer", "state", "states", "temporaries", "treated")

    def __init__(self, model: Model, method: Method, training: Training) -> None:
        self.treated = Treated(model, method, training)
        self.optimizer = OPTIMIZERS[training.optimizer]
        self.state = stored(self.treated)
        self.states = tuple(optimizer_states(self.state, self.optimizer))
        self.gradients = (gradients(self.state),)
        learning = tuple([tensor for tensor in self.state if tensor.learns])
        self.temporaries = temporaries(learning, self.optimizer, training.max_grad_norm)


class Neighbours:
    """What the plan before this one has in common with it: worked out again only where this one differs in it.

    Its model, what it holds, and the `series` of ways that plans of its kind go. An answer is the same with it and
    without. No more is kept than of one plan and its kind.
    """

    __slots__ = ("held", "key", "model", "reference", "series")

    def __init__(self) -> None:
        self.reference: ModelReference | None = None
        self.model: Model | None = None
        self.key: object = None
        self.held: Held | None = None
        self.series = Series()

    def model_of(self, reference: ModelReference, build: Callable[[ModelReference], Model]) -> Model:
        """The model that a plan speaks of. Of two equal configs one may be refused: Python takes 1 for true."""
        before = self.reference
        if self.model is None or reference != before or reference.config is not before.config:
            self.model, self.reference = build(reference), reference
        return self.model

    def held_by(self, model: Model, method: Method, training: Training) -> Held:
        """What a plan holds: the micro-batch and its length have no part in it."""
        key = (id(model), method, others(training))
        if self.held is None or key != self.key:
            self.held, self.key = Held(model, method, training), key
        return self.held
