"""Resident tensors of a run: weights, gradients, optimizer states and the step's temporaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.resident.module_spec import PreparedModel
from calculator.resident.optimizers import OPTIMIZERS
from calculator.resident.per_parameter import gradients, optimizer_states
from calculator.resident.tensors import resident_tensors
from calculator.training_step.optimizer_step import temporaries

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.inputs.training import Training
    from calculator.methods import Method


class ResidentState:
    """Weights and what is put beside them, and of what is trained the gradients, states and a step's temporaries."""

    __slots__ = ("gradients", "optimizer", "prepared", "state", "states", "temporaries")

    def __init__(self, model: Model, method: Method, training: Training) -> None:
        self.prepared = PreparedModel(model, method, training)
        self.optimizer = OPTIMIZERS[training.optimizer]
        self.state = resident_tensors(self.prepared)
        self.states = tuple(optimizer_states(self.state, self.optimizer))
        self.gradients = (gradients(self.state),)
        learning = tuple([tensor for tensor in self.state if tensor.gets_gradient])
        self.temporaries = temporaries(learning, self.optimizer, training.max_grad_norm)
