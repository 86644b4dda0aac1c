"""The state of a micro-batch that trains a prepared model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.layers.context import Context
from calculator.sharding.registry import hooks_of
from calculator.trainers.liger import forward_for

if TYPE_CHECKING:
    from calculator.methods.prepared_model import PreparedModel


def training_context(prepared: PreparedModel, *, reduces: bool = True) -> Context:
    """The context of a micro-batch, with the forward pass and the sharding that its settings name.

    `reduces`: whether it is the last of its step, in which a sharding reduces gradients.
    """
    forward = forward_for(prepared.model, prepared.training)
    return Context(prepared, forward, hooks=hooks_of(prepared, reduces=reduces))
