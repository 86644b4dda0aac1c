"""The micro-batch of transformers' Trainer.

Source: transformers/trainer.py, training_step and compute_loss; accelerate/accelerator.py, backward; and
accelerate/utils/operations.py, convert_outputs_to_fp32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.engine import autocast, in_place
from calculator.engine import operations as ops
from calculator.engine.tape import Tensor
from calculator.inputs.stack import DEFAULT_STACK
from calculator.layers.cut_cross_entropy import CutCrossEntropy
from calculator.layers.liger.cross_entropy import CrossEntropyOfLogits
from calculator.layers.liger.loss import FusedLinearCrossEntropy
from calculator.layers.loss import FullLogits
from calculator.stack.changes import MEAN_LOSSES, older_behavior
from calculator.trainers import cut_cross_entropy, flattened, image_batch, liger, task_labels, towers
from calculator.trainers.ddp_outputs import returned
from calculator.trainers.loop import Loop
from calculator.trainers.resident import GRADIENT_NORM
from calculator.trainers.transformers.facts import FACTS
from calculator.trainers.trl import vllm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.common.dtype import DType
    from calculator.common.names import TrainerName
    from calculator.inputs.stack import StackVersions
    from calculator.layers.context import Context
    from calculator.layers.loss import LossHead
    from calculator.trainers.loop import Passes
    from calculator.trainers.subject import Subject
    from calculator.trainers.task_labels import BatchTensor


#: The name of the scalar with the number of labels in a step.
NUM_ITEMS = "num_items_in_batch"

#: The tensors of a batch of texts in addition to the labels of a task.
INPUTS = ("input_ids", "attention_mask")

#: Settings that only trainers of TRL have, each with one such trainer.
OF_TRL = {
    "loss_type": "trl-sft",
    "precompute_ref_log_probs": "trl-dpo",
    "beta": "trl-grpo",
    "num_generations": "trl-grpo",
    "max_completion_length": "trl-grpo",
    "use_vllm": "trl-grpo",
}


class Transformers(Loop):
    """The loop of transformers.Trainer.

    Batches and scalars are resident tensors, so their tensors here have no storage.
    """

    __slots__ = ()
    name: ClassVar[TrainerName | None] = "transformers"
    facts = FACTS

    #: Why packing is refused, and what to set instead.
    packing_refusal: ClassVar[str] = (
        "transformers.Trainer packs no samples: use false; padding_free, whose micro-batches its"
        " DataCollatorWithFlattening makes; or the trainer trl-sft"
    )

    def problems(self, prepared: Subject) -> Iterator[Problem]:
        """Yield settings that only TRL's trainers have."""
        for name, trainer in OF_TRL.items():
            if given := getattr(prepared.training, name):
                message = f"transformers.Trainer has no {name}: leave it out, or use {trainer}"
                yield Problem(loc=f"training.{name}", msg=message, input=given)
        yield from vllm.problems(prepared.training)
        yield from _row_problems(prepared, self.packing_refusal)

    def assumptions(self, prepared: Subject) -> Iterator[str]:
        """Yield sentences on the memory that the loop adds, and on what Liger patches."""
        yield from self.facts.assumptions
        if prepared.model.task.name != "causal_lm":
            names = [name for name, _, _ in self.fetched(prepared)]
            yield f"The rows of the dataset have {', '.join(names[:-1])} and {names[-1]}, and nothing else."
        if prepared.training.has_images:
            yield "The batches of the step before, with their pixels, stay in memory until all of a step are fetched."
        yield from liger.assumption(prepared)
        yield from flattened.assumptions(prepared.training)
        yield from cut_cross_entropy.assumption(prepared.training, self.facts.label)

    def batch(self, context: Context) -> list[Tensor]:
        """Return the tensors of a batch, which was fetched with the others of the step."""
        model, training = context.model, context.training
        counts = counts_items(model) and not MEAN_LOSSES & context.older
        context.num_items = Tensor(context.tape, None, (), "float32", None) if counts else None
        if model.task.name == "causal_lm":
            context.images = _fetched(context, image_batch.tensors(model, training, self.facts.sequences))
            shape = (context.batch, context.length)
            return [Tensor(context.tape, None, shape, "int64", None) for _ in self.facts.batch]
        context.labels = _fetched(context, task_labels.labels(model, training))
        return [*_fetched(context, task_labels.inputs(model, training, INPUTS, context.dtype)), *context.labels]

    def fetched(self, prepared: Subject) -> list[tuple[str, Shape, DType]]:
        """Return the tensors of each micro-batch, including the labels of the model's task."""
        model, training = prepared.model, prepared.training
        if model.task.name == "causal_lm":
            return [*Loop.fetched(self, prepared), *image_batch.tensors(model, training, self.facts.sequences)]
        dtype = prepared.method.hidden_dtype(training)
        return [*task_labels.inputs(model, training, INPUTS, dtype), *task_labels.labels(model, training)]

    def uses_cache(self, model: Model, stack: StackVersions) -> bool:
        """Return whether a cache is created.

        The Trainer unsets use_cache in the model's config, but not in that of its text model. Older ones leave both.
        """
        older = older_behavior(stack, model.model_type)
        return self.facts.uses_cache or towers.makes_cache(model) or "cache_of_the_config" in older

    def is_reentrant(self, context: Context) -> bool:
        """Return whether checkpointing is re-entrant, which is the default of older releases of transformers."""
        left = context.training.gradient_checkpointing_kwargs is None and "reentrant_by_default" in context.older
        return left or context.training.use_reentrant

    def while_fetching(self, prepared: Subject) -> list[tuple[str, Shape, DType, int]]:
        """Return the batches of the previous step, and the temporaries that count the labels of the fetched ones."""
        steps = prepared.training.gradient_accumulation_steps
        tensors = self.fetched(prepared)
        before: list[tuple[str, Shape, DType, int]] = []
        before += [(f"{name} of the step before", shape, dtype, steps) for name, shape, dtype in tensors]
        labels = next((shape for name, shape, _ in tensors if name == "labels"), None)
        if labels is None or not counts_items(prepared.model):
            return before
        if prepared.model.task.name == "causal_lm":
            labels = (labels[0], named(prepared.training.sequence_length - 1, "S - 1"))
        before.append(("whether each label counts", labels, "bool", 1))
        before.append(("number of labels", (), "int64", min(steps, 2)))
        return before

    def scalars(self, prepared: Subject) -> tuple[str, ...]:
        """Return the scalars that the trainer keeps."""
        older = older_behavior(prepared.stack, prepared.model.model_type)
        left_out = set()
        if not counts_items(prepared.model) or "labels_counted_in_python" in older:
            left_out.add(NUM_ITEMS)
        if "norms_only_to_clip" in older and not prepared.training.max_grad_norm:
            left_out.add(GRADIENT_NORM)
        return tuple([name for name in self.facts.scalars if name not in left_out]) if left_out else self.facts.scalars

    def head(self, context: Context) -> LossHead:
        """Return the model's head and loss, or those of a patch.

        The summed loss is divided by the number of labels in the step.
        """
        if context.model.task.name != "causal_lm":
            return task_labels.head(context.model, context.labels, context.num_items)
        if cut_cross_entropy.is_called(context.training):
            scaled = context.model.model_type in cut_cross_entropy.SCALED
            return CutCrossEntropy(num_items=num_items(context), scaled=scaled)
        if liger.computes_logits(context.model, context.training):
            return CrossEntropyOfLogits(num_items=num_items(context))
        if liger.is_patched(context.model, context.training):
            return FusedLinearCrossEntropy(num_items=num_items(context))
        return FullLogits(num_items=context.num_items)

    def loss(self, context: Context, forward: Passes) -> Tensor:
        """Run the model.

        Autocast ends with it. Then every output that is not float32 is copied to float32.
        """
        tape, dtype = context.tape, context.training.autocast
        with autocast.region(tape, dtype):
            loss, outputs = forward()
        tape.scope, tape.component = "outputs: ", "logits_and_loss"
        image_tensors: list[Tensor] = []
        if dtype is not None:
            converted = [in_float32(output) for output in outputs]
            image_tensors = [*images_in_float32(context)]
            outputs = converted
            del converted
        cache = context.returned_cache
        context.drop_outputs()
        loss, outputs = returned(context, loss, outputs)
        loss = self.scaled(context, loss)
        self.metrics(context, outputs)
        tape.component = "activations"
        del image_tensors, cache
        return loss

    def scaled(self, context: Context, loss: Tensor) -> Tensor:
        """Return the loss times the number of processes, since labels are counted over all processes."""
        return in_place.mul_(loss) if counts_items(context.model) else loss

    def metrics(self, context: Context, outputs: list[Tensor]) -> None:
        """Compute what the trainer logs from the model's outputs."""

    def root(self, loss: Tensor) -> Tensor:
        """Return the loss divided by the accumulation steps that accelerate knows of, which are 1."""
        loss.tape.scope = "loss: "
        return ops.scale(loss, "loss / 1")


def images_in_float32(context: Context) -> Iterator[Tensor]:
    """Yield float32 copies of outputs that the model returns because of images.

    Only outputs in half precision are copied, one for each image.
    """
    for tensor, count in context.image_outputs:
        if tensor.dtype in ("bfloat16", "float16"):
            shape = (named(int(tensor.shape[0]) // count, "rows of an image"), *tensor.shape[1:])
            yield from (context.tape.new(shape, "float32", "output in float32") for _ in range(count))


def _fetched(context: Context, tensors: list[BatchTensor]) -> list[Tensor]:
    return [Tensor(context.tape, None, shape, dtype, None) for _, shape, dtype in tensors]


def _row_problems(prepared: Subject, packing_refusal: str) -> Iterator[Problem]:
    """Yield packing, which transformers.Trainer does not have, and what is not modeled of rows without padding."""
    if prepared.training.packing:
        yield Problem(loc="training.packing", msg=packing_refusal, input=True)
    task = prepared.model.task.name
    if prepared.training.padding_free and task != "causal_lm":
        message = f"DataCollatorWithFlattening labels every token, and {task} does not: use false"
        yield Problem(loc="training.padding_free", msg=message, input=True)
    newest = prepared.stack.transformers == DEFAULT_STACK.transformers
    if prepared.training.padding_free and not newest:
        message = f"is not modeled with transformers {prepared.stack.transformers}: use {DEFAULT_STACK.transformers}"
        yield Problem(loc="training.padding_free", msg=message, input=True)
    yield from flattened.problems(prepared)


def counts_items(model: Model) -> bool:
    """Return whether the labels of a step are counted.

    Labels of other names are not, nor those of models that ignore the count.
    """
    if model.task.name == "causal_lm":
        return model.model_type not in towers.MEANS
    return model.task.name != "question_ans"


def num_items(context: Context) -> Tensor:
    """Return the number of labels in a step, as the model's forward receives it."""
    if context.num_items is None:
        raise AssertionError("a trainer's batch comes with the number of its labels")
    return context.num_items


def in_float32(x: Tensor) -> Tensor:
    """Return a float32 copy of an output in half precision, or the output itself."""
    return ops.cast(x, "float32", "output in float32") if x.dtype in ("bfloat16", "float16") else x
