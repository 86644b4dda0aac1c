"""The micro-batch of TRL's KTOTrainer.

Source: trl/trainer/kto_trainer.py, _compute_kl_logps and _compute_loss, of TRL 1.16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from calculator.common.errors import Problem
from calculator.engine import autocast
from calculator.engine import operations as ops
from calculator.engine.tape import Tensor
from calculator.layers.trl.sequence_logps import masked_labels, sums
from calculator.trainers.ddp_outputs import returned
from calculator.trainers.transformers.loop import Transformers
from calculator.trainers.trl.comparing import ComparingTrainer, cast_inputs, reference_autocast, with_router_loss
from calculator.trainers.trl_kto import older
from calculator.trainers.trl_kto.facts import FACTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.common.dtype import DType
    from calculator.common.names import LayerOutputs, TrainerName
    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.trainers.loop import Passes
    from calculator.trainers.subject import Subject


#: What the batch for the KL divergence has of its own: the images are those of the batch.
_OF_TOKENS = (*FACTS.batch, "token_type_ids", "mm_token_type_ids")


class TrlKto(ComparingTrainer):
    """The loop of trl.KTOTrainer.

    Its losses differ in the second batch, and in vectors that are never part of a peak.
    """

    __slots__ = ()
    name: ClassVar[TrainerName | None] = "trl-kto"
    facts = FACTS
    losses = ("kto", "apo_zero_unpaired")
    logged = ("entropy", "mean_logits")

    def problems(self, prepared: Subject) -> Iterator[Problem]:
        """Yield settings that KTOTrainer refuses, or that are not modeled."""
        training = prepared.training
        yield from ComparingTrainer.problems(self, prepared)
        config = training.fsdp_config if prepared.device.sharding == "fsdp" else None
        keeps_tower = config is not None and not config.reshard_after_forward
        if training.has_images and _estimates_kl(training) and keeps_tower:
            message = (
                "the pass over images that estimates the KL divergence is not modeled under fsdp where weights stay "
                "gathered: use apo_zero_unpaired, or reshard_after_forward true"
            )
            yield Problem(loc="training.loss_type", msg=message, input=training.loss_type)
        if self.is_older(prepared.stack):
            yield from older.problems(prepared, estimates_kl=_estimates_kl(training))
        if training.micro_batch_size < self.smallest_size("micro_batch_size", training):
            message = (
                "the loss kto pairs each prompt with another row's completion: "
                "use at least 2, or the loss_type apo_zero_unpaired"
            )
            yield Problem(loc="training.micro_batch_size", msg=message, input=1)

    def smallest_size(self, name: str, training: Training) -> int:
        """Return 2 rows if the loss pairs each prompt with the completion of another row."""
        return 2 if name == "micro_batch_size" and _estimates_kl(training) else 1

    def fetched(self, prepared: Subject) -> list[tuple[str, Shape, DType]]:
        """Return the batch, the batch for the KL divergence, labels of rows, and precomputed log-probabilities."""
        training = prepared.training
        if self.is_older(prepared.stack):
            return older.fetched(training, estimates_kl=_estimates_kl(training))
        batch = ComparingTrainer.fetched(self, prepared)
        if _estimates_kl(training):
            batch += [(f"KL_{name}", shape, dtype) for name, shape, dtype in batch if name in _OF_TOKENS]
        rows: Shape = (training.micro_batch_size,)
        references = _references(training) if training.precompute_ref_log_probs else ()
        return [*batch, ("label", rows, "bool"), *((name, rows, "float32") for name in references)]

    def batch(self, context: Context) -> list[Tensor]:
        """Return the tensors of a batch. The model is called without the number of labels."""
        batch = ComparingTrainer.batch(self, context)
        context.num_items = None
        return batch

    def layer_outputs(self, prepared: Subject) -> LayerOutputs | None:
        """Return which tensors of every layer older releases get from the model: its cache."""
        return "cache" if self.is_older(prepared.stack) else None

    def uses_cache(self, model: Model, stack: StackVersions) -> bool:
        """Return whether a cache is created. Older releases leave it to the model's config."""
        return self.is_older(stack) and Transformers.uses_cache(self, model, stack)

    def loss(self, context: Context, forward: Passes) -> Tensor:
        """Run the model on both batches, then its reference, and compute the loss from whole sequences."""
        tape, training = context.tape, context.training
        if self.is_older(context.prepared.stack):
            return older.loss(context, forward, estimates_kl=_estimates_kl(training))
        inputs = cast_inputs(context, _references(training))
        tape.component = "logits_and_loss"
        counts = [tape.new((), "int64", f"{name} rows") for name in ("desirable", "undesirable")]
        kl = self._kl(context, forward, reference=False) if _estimates_kl(training) else None
        tape.component = "activations"
        labels = masked_labels(context)
        with autocast.region(tape, training.autocast):
            model_loss, outputs = forward()
        context.drop_outputs()
        model_loss, outputs = returned(context, model_loss, outputs)
        tape.component = "logits_and_loss"
        policy = sums(context, outputs[0])
        selected = _selected(policy)
        reference, ref_kl = self._reference(context, forward)
        tape.scope = "loss: "
        ratios = ops.subtract(policy, reference, "log-ratios")
        losses = ops.unary(ops.scale(ratios, "β · log-ratios"), "sigmoid", saves="result")
        loss = ops.sum_over(ops.scale(losses, "loss of each row"), (), "loss, mean")
        loss = with_router_loss(context, loss, outputs)
        _save_for_metrics(context, selected[2:])
        del inputs, counts, kl, ref_kl, labels, model_loss, outputs, policy, selected, reference, ratios, losses
        context.images = []
        loss = ops.scale(loss, "loss / gradient_accumulation_steps")
        tape.component = "activations"
        return loss

    def _reference(self, context: Context, forward: Passes) -> tuple[Tensor, Tensor | None]:
        """Return the reference's log-probabilities of sequences, and of those for the KL divergence."""
        if context.training.precompute_ref_log_probs:
            return Tensor(context.tape, None, (context.batch,), "float32", None), None
        kl = self._kl(context, forward, reference=True) if _estimates_kl(context.training) else None
        return self._logps(context, forward, "reference: ", reference=True), kl

    def _kl(self, context: Context, forward: Passes, *, reference: bool) -> Tensor:
        """Return the log-probabilities of the batch for the KL divergence."""
        labels = masked_labels(context)
        out = self._logps(context, forward, "KL, reference: " if reference else "KL: ", reference=reference)
        del labels
        return out

    def _logps(self, context: Context, forward: Passes, name: str, *, reference: bool) -> Tensor:
        dtype = reference_autocast(context) if reference else context.training.autocast
        with autocast.region(context.tape, dtype):
            _, outputs = forward.no_grad(name, reference=reference)
        return sums(context, outputs[0])


def _selected(logps: Tensor) -> list[Tensor]:
    """Return the numbers of desirable rows (half of all) and of undesirable rows, and the indices of both."""
    tape, rows = logps.tape, logps.shape[0]
    sizes = rows // 2, rows - rows // 2
    indices = [tape.new((size,), "int64", "rows by label") for size in sizes]
    halves = [tape.new((size,), logps.dtype, "log-probabilities by label") for size in sizes]
    for half in halves:
        half.edge = logps.edge
    return [*indices, *halves]


def _save_for_metrics(context: Context, logps: list[Tensor]) -> None:
    """Save what the logged sums of log-probabilities save, which no backward pass reads.

    Otherwise it is freed with the metrics. Hooks that offload saved tensors refer to it until the next micro-batch.
    Source: trl/trainer/kto_trainer.py, _compute_loss (nansum, twice); tools/autograd/derivatives.yaml, nansum.
    """
    if context.offloaded is None:
        return
    for half in filter(lambda half: half.shape[0], logps):
        for saved in (half, context.tape.new((), half.dtype, "log-probabilities by label, summed")):
            context.offloaded.pack(saved)


def _references(training: Training) -> Sequence[str]:
    """Return the tensors of a batch with precomputed log-probabilities of the reference."""
    return ("ref_logps", "ref_KL_logps") if _estimates_kl(training) else ("ref_logps",)


def _estimates_kl(training: Training) -> bool:
    """Return whether the loss needs an estimate of the KL divergence. The default, `kto`, does."""
    return training.loss_type != "apo_zero_unpaired"
