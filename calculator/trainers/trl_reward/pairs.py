"""The loss of RewardTrainer's pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor


def loss_of_pairs(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Return the mean over the pairs of -logsigmoid(chosen - rejected)."""
    difference = ops.subtract(chosen, rejected, "difference of rewards")
    losses = ops.scale(ops.unary(difference, "log-sigmoid", saves="input"), "loss of each pair")
    return ops.scale(ops.sum_over(losses, (), "loss, mean"), "loss")
