"""The micro-batch of transformers' Trainer.

Source: transformers/trainer.py, training_step and compute_loss; accelerate/accelerator.py, backward; and
accelerate/utils/operations.py, convert_outputs_to_fp32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from calculator.common.errors import Problem
from calculator.engine import autocast, in_place
from calculator.engine import operations as ops
from calculator.engine.tape import Tensor
from calculator.layers.cut_cross_entropy import CutCrossEntropy
from calculator.layers.liger.cross_entropy import CrossEntropyOfLogits
from calculator.layers.liger.loss import FusedLinearCrossEntropy
from calculator.layers.loss import FullLogits
from calculator.trainers import cut_cross_entropy, liger
from calculator.trainers.ddp_outputs import returned
from calculator.trainers.loop import Loop
from calculator.trainers.transformers.facts import FACTS
from calculator.trainers.trl import vllm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.common.names import TrainerName
    from calculator.layers.context import Context
    from calculator.layers.loss import LossHead
    from calculator.trainers.loop import Passes
    from calculator.trainers.subject import Subject


#: Settings that only trainers of TRL have, each with such a trainer.
OF_TRL = {
    "loss_type": "trl-sft",
    "packing": "trl-sft",
    "padding_free": "trl-sft",
    "precompute_ref_log_probs": "trl-dpo",
    "beta": "trl-grpo",
    "num_generations": "trl-grpo",
    "max_completion_length": "trl-grpo",
    "use_vllm": "trl-grpo",
}


class Transformers(Loop):
    """transformers.Trainer. Batches and scalars are resident tensors: their tensors here have no storage."""

    __slots__ = ()
    name: ClassVar[TrainerName | None] = "transformers"
    facts = FACTS

    def problems(self, prepared: Subject) -> Iterator[Problem]:
        """Yield settings that only TRL's trainers have."""
        for name, trainer in OF_TRL.items():
            if given := getattr(prepared.training, name):
                message = f"transformers.Trainer has no {name}: leave it out, or use {trainer}"
                yield Problem(loc=f"training.{name}", msg=message, input=given)
        yield from vllm.problems(prepared.training)

    def assumptions(self, prepared: Subject) -> Iterator[str]:
        """Yield what the loop adds, and what Liger patches."""
        yield from self.facts.assumptions
        yield from liger.assumption(prepared.model, prepared.training)
        yield from cut_cross_entropy.assumption(prepared.training, self.facts.label)

    def batch(self, context: Context) -> list[Tensor]:
        """Return the tensors of a batch, which was fetched with the others of the step."""
        shape = (context.batch, context.length)
        context.num_items = Tensor(context.tape, None, (), "float32", None)
        return [Tensor(context.tape, None, shape, "int64", None) for _ in self.facts.batch]

    def head(self, context: Context) -> LossHead:
        """Return the model's head and loss, or a patch's; the sum is divided by the number of labels in the step."""
        if cut_cross_entropy.is_called(context.training):
            scaled = context.model.model_type in cut_cross_entropy.SCALED
            return CutCrossEntropy(num_items=num_items(context), scaled=scaled)
        if liger.computes_logits(context.model, context.training):
            return CrossEntropyOfLogits(num_items=num_items(context))
        if liger.is_patched(context.model, context.training):
            return FusedLinearCrossEntropy(num_items=num_items(context))
        return FullLogits(num_items=num_items(context))

    def loss(self, context: Context, forward: Passes) -> Tensor:
        """Run the model. Its autocast ends with it, and then every output that is not float32 is copied to float32."""
        tape, dtype = context.tape, context.training.autocast
        with autocast.region(tape, dtype):
            loss, outputs = forward()
        tape.scope, tape.component = "outputs: ", "logits_and_loss"
        if dtype is not None:
            outputs = [in_float32(each) for each in outputs]
        loss, outputs = returned(context, loss, outputs)
        loss = in_place.mul_(loss)
        self.metrics(context, outputs)
        tape.component = "activations"
        return loss

    def metrics(self, context: Context, outputs: list[Tensor]) -> None:
        """Compute what the trainer logs from the model's outputs."""

    def root(self, loss: Tensor) -> Tensor:
        """Return the loss over the number of accumulation steps that accelerate knows of, which is 1."""
        loss.tape.scope = "loss: "
        return ops.scale(loss, "loss / 1")


def num_items(context: Context) -> Tensor:
    """Return the number of labels in a step, as the model's forward receives it."""
    if context.num_items is None:
        raise AssertionError("a trainer's batch comes with the number of its labels")
    return context.num_items


def in_float32(x: Tensor) -> Tensor:
    """Return a copy of an output in half precision in float32, or the output itself."""
    return ops.cast(x, "float32", "output in float32") if x.dtype in ("bfloat16", "float16") else x
