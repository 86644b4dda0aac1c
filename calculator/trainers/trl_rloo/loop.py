"""The micro-batch of TRL's RLOOTrainer.

Source: trl/trainer/rloo_trainer.py, _generate_and_score_completions and _compute_loss, of TRL 1.16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from calculator.engine import operations as ops
from calculator.trainers.trl import generated, older_generating
from calculator.trainers.trl.comparing import ComparingTrainer
from calculator.trainers.trl.generating import GeneratingTrainer, clipped
from calculator.trainers.trl_rloo.facts import FACTS

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.common.names import TrainerName
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.trainers.loop import Compared, Passes
    from calculator.trainers.subject import Subject


class TrlRloo(GeneratingTrainer):
    """The loop of trl.RLOOTrainer.

    The loss is computed for whole sequences, and the KL divergence is part of the rewards.
    """

    __slots__ = ()
    name: ClassVar[TrainerName | None] = "trl-rloo"
    facts = FACTS
    default_beta = 0.05

    def compared(self, prepared: Subject) -> Compared | None:
        """Return the reference model that the loss compares with.

        RLOOTrainer copies the adapters of a model that is passed to it, whatever `beta` is.
        """
        compared_model = ComparingTrainer.compared(self, prepared)
        return (
            compared_model
            if compared_model == "adapter copies" or self.uses_reference(prepared.training, prepared.stack)
            else None
        )

    def reference_sentence(self, prepared: Subject) -> str:
        """Return a sentence on the reference model, and on the memory that it keeps."""
        sentence = GeneratingTrainer.reference_sentence(self, prepared)
        if self.uses_reference(prepared.training, prepared.stack) or self.compared(prepared) is None:
            return sentence
        return f"{sentence} RLOOTrainer copies the adapters in float32 all the same, as adapter_dtype is model."

    def scores(self, prepared: Subject) -> list[tuple[str, Shape, DType]]:
        """Return the log-probabilities of sequences."""
        dtype = (older_generating if self.is_older(prepared.stack) else generated).dtype_of_logps(prepared)
        return [("old_logps", (generated.rows(prepared.training),), dtype)]

    def runs_to_score(self, prepared: Subject) -> bool:  # noqa: ARG002  a hook's signature
        """Return True: the loss reads the model's log-probabilities before the step."""
        return True

    def score(self, context: Context, forward: Passes) -> list[Tensor]:
        """Run the trained model and the reference under no_grad."""
        old = self.logps(context, forward, "old: ", reference=False)
        tape, rows = context.tape, old.shape[:1]
        masked = tape.new(old.shape, old.dtype, "log-probabilities, masked")
        sums = tape.new(rows, old.dtype, "log-probabilities of sequences")
        del masked
        if self.uses_reference(context.training, context.prepared.stack):
            reference = self.logps(context, forward, "reference: ", reference=True)
            divergence = tape.new(old.shape, old.dtype, "KL of each token")
            del reference, divergence
        return [sums]

    def policy_loss(self, context: Context, logps: Tensor, aux_loss: Tensor | None) -> Tensor:
        """Return the loss of whole sequences, over the number of micro-batches."""
        rows = logps.shape[:1]
        mask = generated.unowned(context, logps.shape, "int64")
        total = ops.sum_over(ops.mul(logps, mask, "log-probabilities, masked"), rows, "log-probabilities of sequences")
        old = generated.unowned(context, rows, logps.dtype)
        ratios = ops.unary(ops.subtract(total, old, "log-ratios"), "ratios", saves="result")
        losses = clipped(ratios, generated.unowned(context, rows, "float32"))
        loss = ops.sum_over(losses, (), "loss, mean")
        if aux_loss is not None:
            loss = ops.add(loss, ops.scale(aux_loss, "routers' loss × coefficient"), "loss and routers' loss")
        return ops.scale(loss, "loss / gradient_accumulation_steps")
