"""The micro-batch of TRL's GRPOTrainer.

Source: trl/trainer/grpo_trainer.py, _generate_and_score_completions and _compute_loss, of TRL 1.16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from calculator.common.errors import Problem
from calculator.engine import operations as ops
from calculator.trainers.trl import generated, older_generating
from calculator.trainers.trl.generating import GeneratingTrainer, clipped
from calculator.trainers.trl_grpo.facts import FACTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.common.names import TrainerName
    from calculator.engine.tape import Tensor
    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.trainers.loop import Passes
    from calculator.trainers.subject import Subject


class TrlGrpo(GeneratingTrainer):
    """The loop of trl.GRPOTrainer.

    Its losses differ in tensors with a number for each token of a completion, which are never part of a peak.
    """

    __slots__ = ()
    name: ClassVar[TrainerName | None] = "trl-grpo"
    facts = FACTS
    losses = ("dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo")
    default_beta = 0.0

    def problems(self, prepared: Subject) -> Iterator[Problem]:
        """Yield settings that GRPOTrainer refuses, or that are not modeled."""
        yield from GeneratingTrainer.problems(self, prepared)
        if prepared.training.loss_type == "vespo" and prepared.training.use_vllm:
            message = (
                "GRPOTrainer refuses vespo with its default vllm_importance_sampling_mode, sequence_mask, which is the "
                "one that is modeled: use another loss, or leave use_vllm out"
            )
            yield Problem(loc="training.loss_type", msg=message, input="vespo")

    def scores(self, prepared: Subject) -> list[tuple[str, Shape, DType]]:
        """Return the number of tokens, and the reference's log-probabilities."""
        training = prepared.training
        counts, is_older = self._counts_tokens(prepared.stack), self.is_older(prepared.stack)
        count: list[tuple[str, Shape, DType]] = [("num_items_in_batch", (), "int64")] if counts else []
        if not self.runs_to_score(prepared):
            return count
        shape: Shape = (generated.rows(training), generated.completion(training))
        dtype = (older_generating if is_older else generated).dtype_of_logps(prepared)
        reference: list[tuple[str, Shape, DType]] = [("ref_per_token_logps", shape, dtype)]
        return [
            *count,
            *(_corrections(shape, dtype) if training.use_vllm else ()),
            *(reference if self._scores_before(training, prepared.stack) else ()),
        ]

    def beta_by_default(self, stack: StackVersions) -> float:
        """Return the default of `beta` in a release of TRL."""
        return older_generating.beta_by_default(stack) if self.is_older(stack) else self.default_beta

    def runs_to_score(self, prepared: Subject) -> bool:
        """Return whether vLLM generates, or there is a reference."""
        return prepared.training.use_vllm or self._scores_before(prepared.training, prepared.stack)

    def _scores_before(self, training: Training, stack: StackVersions) -> bool:
        """Return whether a reference runs before the first micro-batch."""
        in_loss = self.is_older(stack) and older_generating.scores_in_loss(stack)
        return self.uses_reference(training, stack) and not in_loss

    def score(self, context: Context, forward: Passes) -> list[Tensor]:
        """Count the tokens. Run the trained model if vLLM generated them, and the reference if there is one."""
        counts = self._counts_tokens(context.prepared.stack)
        scores = [context.tape.new((), "int64", "num_items_in_batch")] if counts else []
        local: list[Tensor] = []
        if context.training.use_vllm:
            corrected, local = self._corrected(context, forward)
            scores += corrected
        if self._scores_before(context.training, context.prepared.stack):
            scores.append(self.logps(context, forward, "reference: ", reference=True))
        del local
        return scores

    def _counts_tokens(self, stack: StackVersions) -> bool:
        """Return whether the number of the completions' tokens is part of the generation batch."""
        return not self.is_older(stack) or older_generating.counts_tokens(stack)

    def _corrected(self, context: Context, forward: Passes) -> tuple[list[Tensor], list[Tensor]]:
        """Return vLLM's log-probabilities, the model's own, and the ratio of a sequence's probabilities by both.

        The second list is what the function that scores has in local variables until the reference has run.
        """
        tape, (rows, length) = context.tape, (generated.rows(context.training), generated.completion(context.training))
        sampled = tape.new((rows, length), "float32", "sampling_per_token_logps")
        old = self.logps(context, forward, "old: ", reference=False)
        local = [
            tape.new(old.shape, "float32", "per_token_logps_diff"),
            tape.new((rows, 1), "float32", "per_sequence_logps_diff"),
            tape.new((rows, 1), "bool", "invalid_mis_mask"),
        ]
        ratio = tape.new((rows, 1), "float32", "importance_sampling_ratio")
        return [old, ratio, sampled], local

    def policy_loss(self, context: Context, logps: Tensor, aux_loss: Tensor | None) -> Tensor:
        """Return the loss `dapo`, which represents every loss."""
        rows, length = logps.shape
        advantages = generated.unowned(context, (rows, 1), "float32")
        vllm = context.training.use_vllm
        old = generated.unowned(context, logps.shape, logps.dtype) if vllm else logps.detach()
        ratios = ops.unary(ops.subtract(logps, old, "log-ratios"), "ratios", saves="result")
        kl = self._kl(context, logps) if self.uses_reference(context.training, context.prepared.stack) else None
        per_token = clipped(ratios, advantages)
        if vllm:
            corrections = generated.unowned(context, (rows, 1), "float32")
            per_token = ops.mul(per_token, corrections, "loss, corrected")
        if kl is not None:
            per_token = ops.add(per_token, ops.scale(kl, "β · KL"), "loss with KL")
        mask = generated.unowned(context, (rows, length), "int64")
        total = ops.sum_over(ops.mul(per_token, mask, "loss of each token, masked"), (), "loss, summed")
        loss = ops.mul(total, context.tape.new((), "float32", "tokens of the step"), "loss")
        if aux_loss is None:
            return loss
        weighted = ops.scale(aux_loss, "routers' loss × coefficient")
        return ops.add(loss, ops.scale(weighted, "routers' loss / steps"), "loss and routers' loss")

    def _kl(self, context: Context, logps: Tensor) -> Tensor:
        """Return an estimate of the KL divergence of each token: exp(d) - d - 1."""
        reference = generated.unowned(context, logps.shape, logps.dtype)
        growth = ops.unary(ops.subtract(reference, logps, "log-ratios to the reference"), "exp", saves="result")
        again = ops.subtract(reference, logps, "log-ratios to the reference")
        return ops.shift(ops.subtract(growth, again, "exp(d) - d"), "KL of each token")


def _corrections(shape: Shape, dtype: DType) -> list[tuple[str, Shape, DType]]:
    """Return the tensors that correct for the difference between vLLM and the model.

    The option is vllm_importance_sampling_correction.
    """
    return [
        ("old_per_token_logps", shape, dtype),
        ("importance_sampling_ratio", (shape[0], 1), "float32"),
        ("sampling_per_token_logps", shape, "float32"),
    ]
