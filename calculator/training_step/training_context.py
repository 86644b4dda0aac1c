"""The state of a micro-batch that trains a prepared model."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.layers.context import Context
from calculator.sharding.ddp_buffers import broadcast, broadcasts
from calculator.sharding.registry import hooks_of
from calculator.training_step.updates.in_backward import releasing_hooks

if TYPE_CHECKING:
    from calculator.methods.prepared_model import PreparedModel


def training_context(prepared: PreparedModel, *, reduces: bool = True) -> Context:
    """Return the context of a micro-batch, with the forward pass and the sharding of its settings.

    `reduces`: whether it is the last of its step, in which a sharding reduces gradients.
    """
    forward = prepared.trainer.forward(prepared)
    hooks = releasing_hooks(prepared) or hooks_of(prepared, reduces=reduces)
    context = Context(prepared, forward, hooks=hooks)
    context.is_reentrant = prepared.trainer.is_reentrant(context)
    if prepared.device.sharding == "ddp":
        # Its buckets have the order in which the gradients are ready.
        context.parameters.accumulation = context.parameters.accumulation._replace(marked=True)
        flat = broadcasts(prepared) if prepared.training.is_first_micro_batch else ()
        context.before_first_pass = partial(broadcast, flat=flat)
    return context
