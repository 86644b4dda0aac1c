"""The micro-batch of TRL's RewardTrainer.

Source: trl/trainer/reward_trainer.py, compute_loss, of TRL 1.16; peft/peft_model.py,
PeftModelForSequenceClassification.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from calculator.common.errors import Problem
from calculator.engine import autocast
from calculator.engine import operations as ops
from calculator.layers.classification import ScoredSequences
from calculator.trainers.ddp_outputs import returned
from calculator.trainers.transformers.loop import Transformers, in_float32
from calculator.trainers.trl import qlora
from calculator.trainers.trl.reference_model import BY_PEFT
from calculator.trainers.trl.trainer import TrlTrainer, in_4_bits
from calculator.trainers.trl_reward import older
from calculator.trainers.trl_reward.facts import FACTS, STEP, STEP_BEFORE_0_24
from calculator.trainers.trl_reward.pairs import loss_of_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.common.dtype import DType
    from calculator.common.names import TrainerName
    from calculator.engine.tape import Tensor
    from calculator.inputs.stack import StackVersions
    from calculator.layers.context import Context
    from calculator.layers.loss import LossHead
    from calculator.resident.module_spec import ModuleSpec
    from calculator.trainers.loop import Passes
    from calculator.trainers.subject import Subject

#: The families whose sequence classification was traced.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "gpt2", "gpt_neox", "olmo2", "qwen3_moe")

#: The families without sequence classification in transformers 4.
#: Source: transformers 4.57.6, models/auto/modeling_auto.py, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.
WITHOUT_HEAD_IN_4 = ("olmo2",)


class TrlReward(TrlTrainer):
    """The loop of trl.RewardTrainer, for sequence classification with one label."""

    __slots__ = ()
    name: ClassVar[TrainerName | None] = "trl-reward"
    facts = FACTS

    def problems(self, prepared: Subject) -> Iterator[Problem]:
        """Yield settings that RewardTrainer refuses, or that are not modeled."""
        training, model = prepared.training, prepared.model
        yield from TrlTrainer.problems(self, prepared)
        if self.is_older(prepared.stack):
            yield from older.problems(prepared)
        if model.model_type not in FAMILIES:
            message = f"sequence classification of {model.model_type} is not modeled yet: use another trainer"
            yield Problem(loc="training.trainer", msg=message, input=training.trainer)
        elif self.is_older(prepared.stack) and model.model_type in WITHOUT_HEAD_IN_4:
            named = f"transformers {prepared.stack.transformers}"
            message = f"{named} has no sequence classification of {model.model_type}: use another model"
            yield Problem(loc="stack.transformers", msg=message, input=prepared.stack.transformers)
        if training.use_liger_kernel:
            message = "Liger looks for an output head, which a model for sequence classification lacks: use false"
            yield Problem(loc="training.use_liger_kernel", msg=message, input=True)
        if training.completion_tokens is not None:
            message = "a reward is for a whole sequence, not for tokens: leave it out"
            yield Problem(loc="training.completion_tokens", msg=message, input=training.completion_tokens)

        names = getattr(prepared.method, "target_modules", None)
        if isinstance(names, tuple) and not any(path.endswith(names) for path, _ in model.paths):
            message = f"a model for sequence classification has no {', '.join(names)}: name other modules"
            yield Problem(loc="method.target_modules", msg=message, input=names)

    def assumptions(self, prepared: Subject) -> Iterator[str]:
        """Yield the assumptions about the loop."""
        step = STEP_BEFORE_0_24 if older.runs_each(prepared.stack) else STEP
        for sentence in TrlTrainer.assumptions(self, prepared):
            yield step if sentence == STEP else sentence

    def model(self, model: Model, stack: StackVersions) -> Model:
        """Return the model for sequence classification."""
        return model.reward_of_each if older.runs_each(stack) else model.reward

    def sequences_in_a_pass(self, stack: StackVersions) -> int:
        """Return the number of sequences of each row that a pass of the model runs."""
        return 1 if older.runs_each(stack) else TrlTrainer.sequences_in_a_pass(self, stack)

    def fetched(self, prepared: Subject) -> list[tuple[str, Shape, DType]]:
        """Return the tensors of each micro-batch."""
        if older.runs_each(prepared.stack):
            return older.fetched(prepared.training)
        return TrlTrainer.fetched(self, prepared)

    def uses_cache(self, model: Model, stack: StackVersions) -> bool:
        """Return whether a cache is created. Older releases do not pass use_cache to the model."""
        return older.runs_each(stack) and Transformers.uses_cache(self, model, stack)

    def module_spec(self, prepared: Subject, path: str, spec: ModuleSpec) -> ModuleSpec:
        """Return how a module is stored and trained: PEFT adds the head to `modules_to_save`."""
        spec = TrlTrainer.module_spec(self, prepared, path, spec)
        method = prepared.method
        if path != prepared.model.head or not (method.name in BY_PEFT or method.embeds_inputs):
            return spec
        cast = in_4_bits(prepared) and not qlora.prepares(prepared.training, prepared.stack)
        copy_dtype: DType | None = "bfloat16" if cast else None
        return replace(spec, trained=("weight",), copied="modules_to_save", copy_dtype=copy_dtype, added=())

    def batch(self, context: Context) -> list[Tensor]:
        """Return the tensors of a batch. The model is called without labels and their number."""
        batch = TrlTrainer.batch(self, context)
        context.num_items = None
        return batch

    def head(self, context: Context) -> LossHead:  # noqa: ARG002  a hook's signature
        """Return the head that scores sequences."""
        return ScoredSequences()

    def loss(self, context: Context, forward: Passes) -> Tensor:
        """Run the model on both sequences, and compute the loss from their scores."""
        if older.runs_each(context.prepared.stack):
            return older.loss(context, forward)
        tape, dtype, rows = context.tape, context.training.autocast, context.training.micro_batch_size
        with autocast.region(tape, dtype):
            scores, outputs = forward()
        tape.scope, tape.component = "loss: ", "logits_and_loss"
        del scores
        scores = outputs.pop()
        if dtype is not None:
            scores = in_float32(scores)
        scores, outputs = returned(context, scores, outputs)
        tape.scope = "loss: "
        chosen, rejected = ops.split(ops.view(scores, scores.shape[:1]), [(rows,), (rows,)])
        loss = loss_of_pairs(chosen, rejected)
        del scores, chosen, rejected
        loss = ops.scale(loss, "loss / gradient_accumulation_steps")
        tape.component = "activations"
        return loss
