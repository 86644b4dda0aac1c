"""The parts that DPOTrainer and KTOTrainer share: TRL's trainers that compare the policy with a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from calculator.common.errors import Problem
from calculator.engine import operations as ops
from calculator.layers.trl.fused_head import FusedHead
from calculator.trainers.trl import check, routers
from calculator.trainers.trl.all_logits import all_outputs
from calculator.trainers.trl.reference_model import compared, copies_problems, sentence
from calculator.trainers.trl.trainer import TrlTrainer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.architecture.model import Model
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.layers.loss import LossHead
    from calculator.layers.trl.fused_head import Output
    from calculator.trainers.loop import Compared
    from calculator.trainers.subject import Subject

#: Families whose processors refuse texts without images.
#: Source: transformers/models/paligemma/processing_paligemma.py, validate_inputs.
NEEDS_IMAGES = frozenset({"paligemma"})


class ComparingTrainer(TrlTrainer):
    """A trainer with a reference: a second model, disabled adapters, or copies of the adapters."""

    __slots__ = ()
    #: What its metrics read of the model's outputs, in addition to the log-probabilities.
    logged: ClassVar[tuple[Output, ...]] = ()

    def problems(self, prepared: Subject) -> Iterator[Problem]:
        """Yield settings that the trainer refuses, or that are not modeled."""
        yield from TrlTrainer.problems(self, prepared)
        if not self.is_older(prepared.stack):
            yield from check.head_problems(prepared)
        if prepared.training.has_images and prepared.training.precompute_ref_log_probs:
            trainer = self.facts.label.removeprefix("TRL ")
            message = f"{trainer} refuses it for datasets with images, which it processes batch by batch: use false"
            yield Problem(loc="training.precompute_ref_log_probs", msg=message, input=True)
        yield from copies_problems(prepared) if self.compared(prepared) == "adapter copies" else ()

    def warnings(self, prepared: Subject) -> Iterator[str]:
        """Yield the settings in which the request differs from the config's defaults, and a collator that fails."""
        yield from TrlTrainer.warnings(self, prepared)
        processes_answers = prepared.training.has_images and not self.facts.generates
        if processes_answers and prepared.model.model_type in NEEDS_IMAGES:
            yield (
                f"{self.facts.label.removeprefix('TRL ')}'s own collator processes answers without images, which the "
                f"processor of {prepared.model.model_type} refuses. Give the trainer a data_collator."
            )

    def router_problems(self, prepared: Subject) -> Iterator[Problem]:
        """Yield models for which the routers' loss is not modeled, which these trainers add to their own."""
        yield from routers.problems(prepared, self.facts.label.removeprefix("TRL "))
        if prepared.model.config.get("output_router_logits"):
            yield routers.unused(self.facts.label.removeprefix("TRL "))

    def model(self, model: Model, stack: StackVersions) -> Model:  # noqa: ARG002  a hook's signature
        """Return the model, with the loss of its routers if it has experts."""
        return model.with_router_loss if model.has_router_loss and routers.is_added(model) else model

    def assumptions(self, prepared: Subject) -> Iterator[str]:
        """Yield a sentence on the reference model."""
        yield from TrlTrainer.assumptions(self, prepared)
        yield from routers.assumptions(prepared.model, self.facts.label.removeprefix("TRL "))
        yield self.reference_sentence(prepared)

    def reference_sentence(self, prepared: Subject) -> str:
        """Return a sentence on the reference model, and on the memory that it keeps."""
        return sentence(prepared, is_frozen=self.freezes_reference(prepared))

    def compared(self, prepared: Subject) -> Compared | None:
        """Return the reference model that the loss compares with."""
        return compared(prepared)

    def fused_head(self, compared: str | None) -> FusedHead:
        """Return the fused head. That of a second model computes the log-probabilities alone."""
        return FusedHead(outputs=() if compared == "model" else self.logged)

    def head(self, context: Context) -> LossHead:
        """Return the fused head, or that of older releases, with all logits."""
        return all_outputs if self.is_older(context.prepared.stack) else self.fused_head(context.compared)

    def is_reentrant(self, context: Context) -> bool:
        """Return whether checkpointing is re-entrant."""
        prepared: Subject = context.prepared  # type: ignore[assignment]  # a step's model is prepared
        if self.is_older(prepared.stack):
            return TrlTrainer.is_reentrant(self, context)
        return self.sets_reentrance(prepared) or context.training.use_reentrant

    def sets_reentrance(self, prepared: Subject) -> bool:
        """Return whether TRL sets use_reentrant: for adapters under ZeRO-3.

        The setting takes effect when TRL re-enables checkpointing.

        Source: trl/models/utils.py, disable_gradient_checkpointing.
        """
        adapts = prepared.device.sharding == "zero3" and prepared.method.facts.config_class is not None
        return adapts and self.turns_checkpointing_on_again(prepared.training)

    def freezes_reference(self, prepared: Subject) -> bool:
        """Return whether the reference is a frozen copy of the model, as in older releases.

        Source: TRL 0.24, trl/models/modeling_base.py, create_reference_model.
        """
        return self.is_older(prepared.stack)

    def reference_checkpoints(self, prepared: Subject) -> bool:
        """Return whether checkpointing stays on while the reference runs, as in older releases."""
        return self.is_older(prepared.stack)

    def turns_checkpointing_on_again(self, training: Training) -> bool:
        """Return whether checkpointing is disabled for a pass of each step, that of the reference."""
        return not training.precompute_ref_log_probs


def reference_autocast(context: Context) -> DType | None:
    """Return the dtype of autocast in which the reference runs.

    To leave virtual tokens out, PEFT calls the base model's forward instead of its own. accelerate has put autocast
    around its own.

    Source: peft 0.21, peft_model.py, disable_adapter; accelerate/accelerator.py, prepare_model.
    """
    return None if context.method.virtual_tokens else context.training.autocast


def cast_inputs(context: Context, names: Sequence[str]) -> list[Tensor]:
    """Cast the floating-point tensors of a batch to the dtype of DeepSpeed's weights, if it differs.

    The images of the context become the cast ones, which all passes read. Return the precomputed log-probabilities.

    Source: transformers/trainer.py, _prepare_input.
    """
    dtype = context.prepared.cast_to
    if dtype in (None, "float32"):
        return []
    context.images = [context.hooks.batch(image) for image in context.images]
    rows, given = (context.training.micro_batch_size,), context.training.precompute_ref_log_probs
    return [context.tape.new(rows, dtype, f"{name}, cast") for name in names if given]


def with_router_loss(context: Context, loss: Tensor, outputs: list[Tensor]) -> Tensor:
    """Add the routers' loss, which is the last of the model's outputs, if there is one."""
    if not context.model.adds_router_loss:
        return loss
    return ops.add(loss, ops.scale(outputs[-1], "routers' loss × coefficient"), "loss and routers' loss")
