"""The micro-batch of TRL's SFTTrainer, whose loss depends on the release of TRL.

Source: trl/trainer/sft_trainer.py, compute_loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from calculator.engine import autocast
from calculator.engine import operations as ops
from calculator.engine.tape import Tensor
from calculator.layers.trl.chunked_nll import ChunkedNLL
from calculator.layers.trl.fused_head import FusedHead
from calculator.layers.trl.logits_metrics import log_from_logits
from calculator.stack.releases import release
from calculator.trainers.ddp_outputs import returned
from calculator.trainers.resident import SEQ_IDX
from calculator.trainers.transformers.loop import Transformers, num_items
from calculator.trainers.trl import qlora, routers
from calculator.trainers.trl_sft import check, sentences
from calculator.trainers.trl_sft.facts import FACTS
from calculator.trainers.trl_sft.releases import (
    FUSED,
    chooses_reentrance,
    copies_mask,
    entropy_chunks,
    finds_bounds,
    logs_entropy,
    logs_from_logits,
    loss_of,
    shifts_first,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.common.dtype import DType
    from calculator.common.errors import Problem
    from calculator.common.names import TrainerName
    from calculator.inputs.stack import StackVersions
    from calculator.layers.context import Context
    from calculator.layers.loss import LossHead
    from calculator.resident.module_spec import ModuleSpec
    from calculator.trainers.loop import Passes
    from calculator.trainers.subject import Subject


class TrlSft(Transformers):
    """The loop of trl.SFTTrainer, a subclass of transformers.Trainer."""

    __slots__ = ()
    name: ClassVar[TrainerName | None] = "trl-sft"
    facts = FACTS
    losses = check.LOSSES

    def problems(self, prepared: Subject) -> Iterator[Problem]:
        """Yield settings that SFTTrainer refuses, or that are not modeled."""
        yield from check.problems(prepared)

    def assumptions(self, prepared: Subject) -> Iterator[str]:
        """Yield how the release of TRL computes the loss, and what it casts."""
        yield from Transformers.assumptions(self, prepared)
        yield from routers.assumptions(prepared.model, "SFTTrainer")
        yield from sentences.assumptions(prepared.training, prepared.stack, in_4_bits=_in_4_bits(prepared))

    def warnings(self, prepared: Subject) -> Iterator[str]:
        """Yield defaults of SFTConfig that differ from the request."""
        method, training = prepared.method, prepared.training
        is_prepared = _in_4_bits(prepared) and method.hidden_dtype(training) != training.dtype
        yield from sentences.warnings(training, prepared.stack, is_prepared=is_prepared)

    def model(self, model: Model, stack: StackVersions) -> Model:
        """Return the model. TRL 1.15 and later add the routers' loss of a model with experts."""
        if model.has_router_loss and release(stack.trl)[:2] >= FUSED:
            return model.with_router_loss if routers.is_added(model) else model.without_router_loss
        return model

    def module_spec(self, prepared: Subject, path: str, spec: ModuleSpec) -> ModuleSpec:
        """Return how a module is stored, in the dtypes that TRL casts a 4-bit model to."""
        return qlora.module_spec(prepared, path, spec) if _in_4_bits(prepared) else spec

    def hidden_dtype(self, prepared: Subject) -> DType:
        """Return the dtype of the word embeddings."""
        table = next(module for module in prepared.model.outer.values() if module.kind == "embedding")
        return prepared.module_spec(table.name, table).dtype

    def is_reentrant(self, context: Context) -> bool:
        """Return whether checkpointing is re-entrant.

        TRL before 1.0 leaves the default to transformers, and to PyTorch for 4-bit models. Later ones set it false.
        """
        if context.training.gradient_checkpointing_kwargs is not None or chooses_reentrance(context.prepared.stack):
            return context.training.use_reentrant
        return qlora.is_prepared_by_trl(context.prepared) or Transformers.is_reentrant(self, context)

    def sample_bounds(self, prepared: Subject) -> tuple[str, ...]:
        """Return the tensors that the collator of TRL 1.16 derives from the positions."""
        return ("cu_seq_lens_q", "cu_seq_lens_k", SEQ_IDX) if finds_bounds(prepared.stack) else ()

    def uses_cache(self, model: Model, stack: StackVersions) -> bool:
        """Return whether a cache is created. From TRL 0.22 on, SFTTrainer passes use_cache=False to the model."""
        return not logs_entropy(stack) and Transformers.uses_cache(self, model, stack)

    def batch(self, context: Context) -> list[Tensor]:
        """Return the tensors of a batch. A flattened one may include the bounds of its samples."""
        if context.training.flattened and finds_bounds(context.prepared.stack):
            context.sample_bounds = Tensor(context.tape, None, (context.training.samples + 1,), "int32", None)
        batch = Transformers.batch(self, context)
        if loss_of(context.training, context.prepared.stack) == "fused":
            context.num_items = None  # the model is called without the number of labels
        return batch

    def head(self, context: Context) -> LossHead:
        """Return the head that the release of TRL puts on the model."""
        match loss_of(context.training, context.prepared.stack):
            case "fused":
                return FusedHead(outputs=("entropy", "is_top1"))
            case "chunked_nll":
                return ChunkedNLL(num_items=num_items(context))
            case "nll":
                return Transformers.head(self, context)

    def loss(self, context: Context, forward: Passes) -> Tensor:
        """Run the model.

        With the fused head, the loss is computed from its log-probabilities. Otherwise it is the model's loss.
        """
        if loss_of(context.training, context.prepared.stack) != "fused":
            return Transformers.loss(self, context, forward)
        tape = context.tape
        with autocast.region(tape, context.training.autocast):
            model_loss, outputs = forward()
        context.drop_outputs()
        model_loss, outputs = returned(context, model_loss, outputs)
        tape.scope, tape.component = "loss: ", "logits_and_loss"
        per_token_loss = ops.scale(outputs[0], "loss of each token")
        if context.training.loss_type == "dft":
            probabilities = ops.unary(outputs[0], "probabilities of the labels", saves="result")
            per_token_loss = ops.mul(per_token_loss, probabilities.detach(), "loss of each token, weighted")
            del probabilities
        total = ops.sum_over(per_token_loss, (), "loss, summed")
        loss = ops.mul(total, tape.new((), "float32", "labels in the step, at least 1"), "loss, divided")
        del total
        weighted_aux_loss = _weighted(context, outputs)
        loss = ops.scale(loss, "loss × processes")
        if weighted_aux_loss is not None:
            loss = ops.add(loss, ops.scale(weighted_aux_loss, "routers' loss / steps"), "loss and routers' loss")
        metrics = [tape.new((), "float32", name) for name in ("labels", "entropy, summed", "correct tokens")]
        tape.component = "activations"
        del model_loss, metrics, weighted_aux_loss
        return loss

    def alive_after_loss(self, context: Context, outputs: list[Tensor]) -> list[Tensor]:
        """Return the loss of each token, and the scalars that are logged."""
        tape = context.tape
        tape.scope = "loss: "
        names = ("number of labels", "labels", "entropy, summed", "correct tokens")
        return [
            tape.new(outputs[1].shape, "float32", "loss of each token"),
            *(tape.new((), "float32", name) for name in names),
        ]

    def metrics(self, context: Context, outputs: list[Tensor]) -> None:
        """Compute what is logged from the logits if the model returns them."""
        if logs_from_logits(context.training, context.prepared.stack) and outputs:
            stack = context.prepared.stack
            log_from_logits(
                context,
                outputs[0],
                entropy=entropy_chunks(stack),
                float_mask=copies_mask(stack),
                shifts_first=shifts_first(stack),
            )


def _weighted(context: Context, outputs: list[Tensor]) -> Tensor | None:
    """Return the routers' loss times its coefficient, if the model returns it."""
    return ops.scale(outputs[-1], "routers' loss × coefficient") if context.model.adds_router_loss else None


def _in_4_bits(prepared: Subject) -> bool:
    stored = prepared.method.base_quantization(prepared.training)
    return stored is not None and stored.is_bitsandbytes
