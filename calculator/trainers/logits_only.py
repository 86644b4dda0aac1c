"""A call of the model without labels. It computes the logits of every token and no loss."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.families import forward_of
from calculator.layers.loss import logits_of
from calculator.trainers.reference.loop import Reference

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.loss import LossHead
    from calculator.trainers.loop import Passes


class LogitsOnly(Reference):
    """A call of the model whose caller keeps the logits."""

    __slots__ = ()

    def head(self, context: Context) -> LossHead:  # noqa: ARG002  a hook's signature
        """Return the model's own head."""
        return all_logits

    def loss(self, context: Context, forward: Passes) -> Tensor:  # noqa: ARG002  a hook's signature
        """Return the logits."""
        return forward()[0]


class LogitsWithoutCache(LogitsOnly):
    """A call of the model with use_cache=False, as TRL's trainers make it, whose caller keeps the logits."""

    __slots__ = ()
    facts = replace(LogitsOnly.facts, uses_cache=False)


def all_logits(context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the logits of every position, also in place of the loss."""
    logits = logits_of(context, forward_of(context.model), hidden_states)
    return logits, [logits]
