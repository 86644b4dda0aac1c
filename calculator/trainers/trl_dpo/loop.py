"""The micro-batch of TRL's DPOTrainer.

Source: trl/trainer/dpo_trainer.py, DPOTrainer.__init__ (the reference) and _compute_loss, of TRL 1.16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from calculator.engine import autocast
from calculator.engine import operations as ops
from calculator.engine.tape import Tensor
from calculator.layers.trl.sequence_logps import halves, masked_labels, sums
from calculator.stack.releases import release
from calculator.trainers.ddp_outputs import returned
from calculator.trainers.transformers.loop import Transformers
from calculator.trainers.trl.comparing import ComparingTrainer, cast_inputs, reference_autocast, with_router_loss
from calculator.trainers.trl_dpo import older
from calculator.trainers.trl_dpo.facts import FACTS

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.common.dtype import DType
    from calculator.common.names import LayerOutputs, TrainerName
    from calculator.inputs.stack import StackVersions
    from calculator.layers.context import Context
    from calculator.trainers.loop import Passes
    from calculator.trainers.subject import Subject

#: The tensors of a batch with precomputed log-probabilities of the reference.
LOGPS = ("ref_chosen_logps", "ref_rejected_logps")

#: The further settings that a loss needs.
_NEEDS_SMOOTHING = "needs label_smoothing, which is not modeled"


class TrlDpo(ComparingTrainer):
    """The loop of trl.DPOTrainer.

    Its losses differ in vectors with a number for each pair, which are never part of a peak.
    """

    __slots__ = ()
    name: ClassVar[TrainerName | None] = "trl-dpo"
    facts = FACTS
    logged = ("entropy", "mean_logits", "is_top1")
    losses = (
        "sigmoid",
        "hinge",
        "ipo",
        "nca_pair",
        "robust",
        "bco_pair",
        "sppo_hard",
        "aot",
        "aot_unpaired",
        "apo_zero",
        "apo_down",
        "discopop",
        "sft",
        "sigmoid_norm",
    )
    other_losses: ClassVar[dict[str, str]] = {"exo_pair": _NEEDS_SMOOTHING}

    def fetched(self, prepared: Subject) -> list[tuple[str, Shape, DType]]:
        """Return the batch, and the reference's log-probabilities if they are precomputed."""
        training = prepared.training
        is_older = self.is_older(prepared.stack)
        tensors = older.fetched(training) if is_older else ComparingTrainer.fetched(self, prepared)
        if training.precompute_ref_log_probs:
            rows: Shape = (training.micro_batch_size,)
            tensors += [(name, rows, "float32") for name in LOGPS]
        return tensors

    def batch(self, context: Context) -> list[Tensor]:
        """Return the tensors of a batch. The model is called without the number of labels."""
        batch = ComparingTrainer.batch(self, context)
        context.num_items = None
        return batch

    def layer_outputs(self, prepared: Subject) -> LayerOutputs | None:
        """Return which tensors of every layer older releases get from the model."""
        trl = release(prepared.stack.trl)[:2]
        if not self.is_older(prepared.stack):
            return None
        return "cache" if trl < older.WITHOUT_CACHE else "hidden states" if trl >= older.HIDDEN_STATES else None

    def uses_cache(self, model: Model, stack: StackVersions) -> bool:
        """Return whether a cache is created. From TRL 0.18 on, DPOTrainer passes use_cache=False to the model."""
        return release(stack.trl)[:2] < older.WITHOUT_CACHE and Transformers.uses_cache(self, model, stack)

    def loss(self, context: Context, forward: Passes) -> Tensor:
        """Run the model and then its reference, and compute the loss from the log-probabilities of whole sequences."""
        if self.is_older(context.prepared.stack):
            return older.loss(context, forward)
        tape, dtype = context.tape, context.training.autocast
        inputs = cast_inputs(context, LOGPS)
        labels = masked_labels(context)
        with autocast.region(tape, dtype):
            model_loss, outputs = forward()
        context.drop_outputs()
        model_loss, outputs = returned(context, model_loss, outputs)
        tape.component = "logits_and_loss"
        policy = sums(context, outputs[0])
        rows = context.training.micro_batch_size
        reference = self._reference(context, forward)
        loss = with_router_loss(context, _loss(halves(policy, rows), halves(reference, rows)), outputs)
        del labels, model_loss, outputs, policy, reference, inputs
        context.images = []
        loss = ops.scale(loss, "loss / gradient_accumulation_steps")
        tape.component = "activations"
        return loss

    def _reference(self, context: Context, forward: Passes) -> Tensor:
        """Return the reference's log-probabilities of sequences. Precomputed ones have no storage here."""
        if context.training.precompute_ref_log_probs:
            return Tensor(context.tape, None, (context.batch,), "float32", None)
        with autocast.region(context.tape, reference_autocast(context)):
            _, outputs = forward.no_grad("reference: ", reference=True)
        return sums(context, outputs[0])


def _loss(policy: list[Tensor], reference: list[Tensor]) -> Tensor:
    """Compute the loss `sigmoid`, which represents every loss."""
    chosen, rejected = (
        ops.subtract(trained, other, "log-ratios of chosen and rejected")
        for trained, other in zip(policy, reference, strict=True)
    )
    delta = ops.subtract(chosen, rejected, "difference of log-ratios")
    losses = ops.unary(ops.scale(delta, "β · difference"), "log-sigmoid", saves="input")
    losses = ops.scale(losses, "loss of each pair")
    loss = ops.scale(ops.sum_over(losses, (), "loss, mean"), "loss, weighted")
    return ops.shift(loss, "loss, summed over types")
