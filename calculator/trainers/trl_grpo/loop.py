"""The micro-batch of TRL's GRPOTrainer.

Source: trl/trainer/grpo_trainer.py, _generate_and_score_completions and _compute_loss, of TRL 1.16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from calculator.engine import operations as ops
from calculator.trainers.trl import generated
from calculator.trainers.trl.generating import GeneratingTrainer, clipped
from calculator.trainers.trl_grpo.facts import FACTS

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.common.names import TrainerName
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.trainers.loop import Passes


class TrlGrpo(GeneratingTrainer):
    """trl.GRPOTrainer. Its losses differ in tensors with a number for each token of a completion, which no peak has."""

    __slots__ = ()
    name: ClassVar[TrainerName | None] = "trl-grpo"
    facts = FACTS
    losses = ("dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo")
    default_beta = 0.0

    def scores(self, training: Training) -> list[tuple[str, Shape, DType]]:
        """Return the number of tokens, and the reference's log-probabilities."""
        shape: Shape = (generated.rows(training), generated.completion(training))
        reference: list[tuple[str, Shape, DType]] = [("ref_per_token_logps", shape, "float32")]
        return [("num_items_in_batch", (), "int64"), *(reference if self.uses_reference(training) else ())]

    def score(self, context: Context, forward: Passes) -> list[Tensor]:
        """Count the tokens, and run the reference, if there is one."""
        items = context.tape.new((), "int64", "num_items_in_batch")
        if not self.uses_reference(context.training):
            return [items]
        return [items, self.logps(context, forward, "reference: ", reference=True)]

    def policy_loss(self, context: Context, logps: Tensor) -> Tensor:
        """Return the loss `dapo`, in place of every loss."""
        rows, length = logps.shape
        advantages = generated.unowned(context, (rows, 1), "float32")
        ratios = ops.unary(ops.subtract(logps, logps.detach(), "log-ratios"), "ratios", saves="result")
        kl = self._kl(context, logps) if self.uses_reference(context.training) else None
        per_token = clipped(ratios, advantages)
        if kl is not None:
            per_token = ops.add(per_token, ops.scale(kl, "β · KL"), "loss with KL")
        mask = generated.unowned(context, (rows, length), "int64")
        total = ops.sum_over(ops.mul(per_token, mask, "loss of each token, masked"), (), "loss, summed")
        return ops.mul(total, context.tape.new((), "float32", "tokens of the step"), "loss")

    def _kl(self, context: Context, logps: Tensor) -> Tensor:
        """Return an estimate of the KL divergence of each token: exp(d) - d - 1."""
        reference = generated.unowned(context, logps.shape, "float32")
        growth = ops.unary(ops.subtract(reference, logps, "log-ratios to the reference"), "exp", saves="result")
        again = ops.subtract(reference, logps, "log-ratios to the reference")
        return ops.shift(ops.subtract(growth, again, "exp(d) - d"), "KL of each token")
