"""TRL's generating trainers: GRPOTrainer and RLOOTrainer.

The first micro-batch of a step generates and scores the completions of the whole step, `micro_batch_size` at a time.

Source: trl/trainer/grpo_trainer.py and rloo_trainer.py of TRL 1.16, _prepare_inputs, _generate_and_score_completions
and _get_per_token_logps_and_entropies.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import autocast, indexing, selection
from calculator.engine import operations as ops
from calculator.layers.trl.sequence_logps import masked_labels
from calculator.trainers.ddp_outputs import returned
from calculator.trainers.loop import GenerationBatch
from calculator.trainers.resident import MOST_LISTED
from calculator.trainers.transformers.loop import Transformers
from calculator.trainers.trl import generated, generated_images, older_generating, vllm
from calculator.trainers.trl.comparing import ComparingTrainer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Dim, Shape
    from calculator.architecture.model import Model
    from calculator.common.dtype import DType
    from calculator.common.errors import Problem
    from calculator.engine.tape import Tensor
    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.layers.loss import LossHead
    from calculator.trainers.loop import Compared, Passes
    from calculator.trainers.subject import Subject


class GeneratingTrainer(ComparingTrainer):
    """A trainer whose first micro-batch scores the generation batch."""

    __slots__ = ()
    logged = ("entropy",)

    #: The trainer's default of `beta`. With 0, there is no reference.
    default_beta: float

    def problems(self, prepared: Subject) -> Iterator[Problem]:
        """Yield settings that the trainer refuses, or that are not modeled."""
        yield from ComparingTrainer.problems(self, prepared)
        label = self.facts.label.removeprefix("TRL ")
        if self.is_older(prepared.stack):
            yield from older_generating.problems(prepared, label)
        yield from generated.problems(prepared.training, label, prepared.device.count)
        if not prepared.training.use_vllm:
            yield from generated.cache_problems(prepared.model, prepared.training)
        yield from generated_images.problems(prepared, label)

    def smallest_size(self, name: str, training: Training) -> int:
        """Return the smallest value of a size setting that the trainer accepts.

        A step has at least two completions of a prompt. A sequence has at least a token of a prompt and the completion.
        """
        if name == "micro_batch_size":
            return -(-LEAST_GROUP // training.micro_batches)
        return 1 + (training.max_completion_length or 1) if name == "sequence_length" else 1

    def assumptions(self, prepared: Subject) -> Iterator[str]:
        """Yield sentences on the reference model, and on the length of completions."""
        yield from ComparingTrainer.assumptions(self, prepared)
        if self.is_older(prepared.stack):
            yield from older_generating.sentences(
                prepared, scores=self.uses_reference(prepared.training, prepared.stack)
            )
        yield generated.lengths(prepared.training)
        if prepared.training.use_vllm:
            yield from vllm.sentences(prepared)
        else:
            yield generated.by_generate(prepared.training)

    def beta_by_default(self, stack: StackVersions) -> float:  # noqa: ARG002  a hook's signature
        """Return the default of `beta` in a release of TRL."""
        return self.default_beta

    def warnings(self, prepared: Subject) -> Iterator[str]:
        """Yield the settings in which the request differs from the config's defaults, and a cache that stays empty."""
        yield from ComparingTrainer.warnings(self, prepared)
        if not self.fills_cache(prepared):
            yield older_generating.leaves_cache_empty(prepared.stack)

    def rows_of_reference(self, training: Training, stack: StackVersions) -> Dim | None:
        """Return the number of rows of the reference's pass, or None if it is that of a micro-batch."""
        at_once = self.is_older(stack) and older_generating.scores_at_once(stack)
        return generated.rows(training) if at_once and training.micro_batches > 1 else None

    def uses_reference(self, training: Training, stack: StackVersions) -> bool:
        """Return whether the loss or the rewards have a term for the KL divergence from the reference."""
        return bool(self.beta_by_default(stack) if training.beta is None else training.beta)

    def compared(self, prepared: Subject) -> Compared | None:
        """Return the reference model that the loss compares with, or None if `beta` is 0."""
        return (
            ComparingTrainer.compared(self, prepared)
            if self.uses_reference(prepared.training, prepared.stack)
            else None
        )

    def freezes_reference(self, prepared: Subject) -> bool:
        """Return whether the reference is a frozen copy. From TRL 0.19 on it is loaded as another model."""
        return self.copies_reference(prepared.stack)

    def is_reentrant(self, context: Context) -> bool:
        """Return whether checkpointing is re-entrant.

        TRL 0.22 to 0.24 turn it on again after `generate` without its settings, and transformers 4 is re-entrant then.

        Source: TRL 0.24, trl/models/utils.py, unwrap_model_for_generation.
        """
        stack = context.prepared.stack
        if self.is_older(stack) and not context.training.use_vllm:
            return older_generating.turns_checkpointing_off(stack) or Transformers.is_reentrant(self, context)
        return ComparingTrainer.is_reentrant(self, context)

    def uses_cache(self, model: Model, stack: StackVersions) -> bool:
        """Return whether a cache is created. From TRL 0.22 on, GRPOTrainer passes use_cache=False to the model."""
        passes = not self.is_older(stack) or older_generating.passes_no_cache(stack)
        return not passes and Transformers.uses_cache(self, model, stack)

    def unsets_cache(self, training: Training, stack: StackVersions) -> bool:
        """Return whether use_cache is false in the config of a second model."""
        return self.is_older(stack) and older_generating.unsets_cache(training, stack)

    def warps_scores(self, stack: StackVersions) -> bool:
        """Return whether the defaults of a release of TRL change the scores of the next token."""
        return self.is_older(stack) and older_generating.warps_scores(stack)

    def grads_inputs_of_all_passes(self, training: Training, stack: StackVersions) -> bool:
        """Return whether embeddings require a gradient in `generate` too, whatever is trained."""
        return self.is_older(stack) and older_generating.grads_inputs(training, stack)

    def copies_reference(self, stack: StackVersions) -> bool:
        """Return whether a second model is a copy of the trained one, with its hooks."""
        return self.is_older(stack) and older_generating.copies_reference(stack)

    def fills_cache(self, prepared: Subject) -> bool:
        """Return whether the passes of `generate` in a step keep keys and values."""
        return not self.is_older(prepared.stack) or older_generating.fills_cache(prepared)

    def turns_checkpointing_on_again(self, training: Training) -> bool:  # noqa: ARG002  a hook's signature
        """Return True: checkpointing is disabled while completions are generated and scored."""
        return True

    def reference_sentence(self, prepared: Subject) -> str:
        """Return a sentence on the reference model, and on the memory that it keeps."""
        if not self.uses_reference(prepared.training, prepared.stack):
            return "beta is 0: there is no reference."
        return ComparingTrainer.reference_sentence(self, prepared)

    def fetched(self, prepared: Subject) -> list[tuple[str, Shape, DType]]:
        """Return the images of each micro-batch, which its part of the generation batch has. A batch is texts."""
        return generated_images.copied_tensors(prepared)

    def while_fetching(self, prepared: Subject) -> list[tuple[str, Shape, DType, int]]:  # noqa: ARG002  a hook's signature
        """Return nothing, because texts and images are on the host."""
        return []

    def kept_for_step(self, prepared: Subject) -> list[tuple[str, Shape, DType]]:
        """Return the scored generation batch, which stays until the next one replaces it."""
        tokens = self._tokens(prepared)
        return [*tokens, *self._scored(prepared, tokens[0][1][0])]

    def _tokens(self, prepared: Subject) -> list[tuple[str, Shape, DType]]:
        """Return the tokens of a generation batch, and their masks."""
        return (
            older_generating.tokens(prepared) if self.is_older(prepared.stack) else generated.tokens(prepared.training)
        )

    def _scored(self, prepared: Subject, rows: int) -> list[tuple[str, Shape, DType]]:
        """Return the tensors of a step's generation batch that are kept in addition to its tokens."""
        return [("advantages", (rows,), "float32"), *self.scores(prepared), *generated_images.shared_tensors(prepared)]

    def generation(self, training: Training) -> GenerationBatch | None:
        """Return the completions of a step, which `generate` creates at once, or None if vLLM creates them."""
        if training.use_vllm:
            return None
        length = generated.completion(training)
        return GenerationBatch(generated.rows(training), named(training.sequence_length - length, "P"), length)

    @abstractmethod
    def scores(self, prepared: Subject) -> list[tuple[str, Shape, DType]]:
        """Return the further tensors of scores that the micro-batches read."""

    @abstractmethod
    def score(self, context: Context, forward: Passes) -> list[Tensor]:
        """Run the models that score the completions, and return the tensors of `scores`."""

    @abstractmethod
    def policy_loss(self, context: Context, logps: Tensor, aux_loss: Tensor | None) -> Tensor:
        """Return the loss, with the routers' loss if there is one.

        logps: (sequences, completion), like all other tensors with a value for each token.
        """

    def batch(self, context: Context) -> list[Tensor]:
        """Return views of the generation batch, which are not tensors of their own."""
        prepared: Subject = context.prepared  # type: ignore[assignment]  # a step's model is prepared
        views = generated_images.tensors(prepared, context.training)
        context.images = [generated.unowned(context, shape, dtype) for _, shape, dtype in views]
        return [generated.unowned(context, (context.batch, context.length), "int64")]

    def head(self, context: Context) -> LossHead:
        """Return the fused head, or that of older releases, with the logits of the completions."""
        if self.is_older(context.prepared.stack):
            return older_generating.logits_of_completions
        return ComparingTrainer.head(self, context)

    def loss(self, context: Context, forward: Passes) -> Tensor:
        """Score the generation batch in the step's first micro-batch. Then run the model on the micro-batch's rows."""
        tape, training = context.tape, context.training
        scored = self._score_all(context, forward) if training.is_first_micro_batch else []
        shape = (context.batch, context.length)
        tape.scope, tape.component = "micro-batch: ", "activations"
        ids, mask = (tape.new(shape, "int64", name) for name in ("input_ids", "attention_mask"))
        context.padding_mask = mask
        if self.is_older(context.prepared.stack):
            loss = self._older_loss(context, forward, ids)
            del ids, mask, scored
            return loss
        counted = generated_images.counted(context, training.micro_batch_size)
        labels = masked_labels(context)
        with autocast.region(tape, training.autocast):
            model_loss, outputs = forward(ids)
        context.drop_outputs()
        model_loss, outputs = returned(context, model_loss, outputs)
        tape.component = "logits_and_loss"
        context.set_scope("loss: ")
        logps, entropies = (
            generated.completion_values(context, output, name) for output, name in zip(outputs, _NAMES, strict=False)
        )
        aux_loss = None
        if context.model.adds_router_loss:
            aux_loss = ops.sum_over(ops.scale(outputs[-1], "routers' losses"), (), "routers' loss, mean")
        del labels, model_loss, outputs, counted
        loss = self.policy_loss(context, logps, aux_loss)
        del ids, mask, logps, entropies, aux_loss, scored
        tape.component = "activations"
        return loss

    def _older_loss(self, context: Context, forward: Passes, ids: Tensor) -> Tensor:
        """Run the model on the micro-batch's rows, and compute the loss from the logits of the completions."""
        tape = context.tape
        with autocast.region(tape, context.training.autocast):
            outputs = forward(ids)[1]
        tape.component = "logits_and_loss"
        logits = older_generating.returned_logits(context, outputs)
        context.drop_outputs()
        logits = older_generating.scaled(context, logits)
        logps = older_generating.log_probs(logits, ids)
        entropies = older_generating.entropies(context.prepared.stack, logits, logps.shape)
        whole = ops.cat((logps,), logps.shape, "log-probabilities of completions")
        if entropies is not None:
            entropies = tape.new(entropies.shape, entropies.dtype, "entropies of completions")
        del logits, logps, outputs
        stack, reference = context.prepared.stack, None
        if older_generating.scores_in_loss(stack) and self.uses_reference(context.training, stack):
            reference = self._older_logps(context, forward, "reference: ", reference=True)
        loss = self.policy_loss(context, whole, None)
        del whole, entropies, reference
        tape.component = "activations"
        return loss

    def _older_logps(self, context: Context, forward: Passes, name: str, *, reference: bool) -> Tensor:
        """Return the log-probabilities of all completions, as `logps` does."""
        tape, training = context.tape, context.training
        prepared: Subject = context.prepared  # type: ignore[assignment]  # a step's model is prepared
        tape.scope, tape.component = name, "logits_and_loss"
        dtype = older_generating.dtype_of_logps(prepared)
        others, rows, all_rows = older_generating.rows_of_pass(context)
        shape = (rows, generated.completion(training))
        earlier = [tape.new(shape, dtype, "log-probabilities of other rows") for _ in range(others)]
        left = older_generating.left_by_other_rows(context, dtype) if others else []
        with autocast.region(tape, training.autocast):
            outputs = forward.no_grad(name, reference=reference)[1]
        tape.component = "logits_and_loss"
        logits = older_generating.returned_logits(context, outputs)
        del left
        logits = older_generating.scaled(context, logits)
        own = older_generating.log_probs(logits, generated.unowned(context, shape, "int64"))
        out = tape.new((all_rows, shape[1]), dtype, "log-probabilities of completions")
        del outputs, logits, own, earlier
        return out

    def _score_all(self, context: Context, forward: Passes) -> list[Tensor]:
        """Score the generation batch, which replaces that of the previous step. In evaluation, return it."""
        tape, training = context.tape, context.training
        tape.scope, tape.component = "generation batch: ", "activations"
        prepared: Subject = context.prepared  # type: ignore[assignment]  # a step's model is prepared
        tokens = self._tokens(prepared)
        rows = tokens[0][1][0]
        is_older = self.is_older(prepared.stack)
        batch, whole = older_generating.unshuffled(context, generated.tokens(training) if is_older else tokens)
        images, token_types, prompts = generated_images.processed(context)
        scores = self.score(context, forward)
        tape.scope = "generation batch: "
        advantages = tape.new((rows,), "float32", "advantages")
        del whole, prompts
        if not tape.trains:
            return [*batch, advantages, *scores, *images, *token_types]
        step_tensors = (*tokens, *self._scored(prepared, rows))
        if is_older and not older_generating.shuffles(prepared.stack):
            return []
        shuffled = [tape.new(shape, dtype, f"{name}, shuffled") for name, shape, dtype in step_tensors]
        del batch, advantages, scores, token_types
        row_tensors = self.fetched(prepared) * training.micro_batches
        joined = [tape.new(shape, dtype, f"{name}, joined") for name, shape, dtype in row_tensors]
        del images, shuffled, joined
        return []

    def logps(self, context: Context, forward: Passes, name: str, *, reference: bool) -> Tensor:
        """Return the log-probabilities of all completions. Those of the last micro-batch are computed here.

        Before that, those of all others are alive, and the other outputs of their last pass.
        """
        if self.is_older(context.prepared.stack):
            return self._older_logps(context, forward, name, reference=reference)
        tape, training = context.tape, context.training
        shape: Shape = (context.batch, named(training.sequence_length - 1, "S - 1"))
        tape.scope, tape.component = name, "logits_and_loss"
        others = training.micro_batches - 1
        times, rows = (1, others * shape[0]) if others > MOST_LISTED else (others, shape[0])
        dtype = context.hooks.param_dtype or "float32"
        tape.mark(OTHER_ROWS)
        earlier = [tape.new((rows, shape[1]), dtype, "log-probabilities of other rows") for _ in range(times)]
        tape.mark(OTHER_OUTPUTS)
        returned = self._returned(context, shape, reference=reference) if others else []
        tape.mark(OWN_ROWS)
        counted = generated_images.counted(context, training.micro_batches * training.micro_batch_size)
        labels = masked_labels(context)
        with autocast.region(tape, training.autocast):
            loss, outputs = forward.no_grad(name, reference=reference)
        del returned
        tape.scope, tape.component = name, "logits_and_loss"
        completions = (generated.rows(training), generated.completion(training))
        out = tape.new(completions, dtype, "log-probabilities of completions")
        del loss, outputs, labels, earlier, counted
        return out

    def _returned(self, context: Context, shape: Shape, *, reference: bool) -> list[Tensor]:
        """Return the outputs of the pass of other rows in addition to their log-probabilities."""
        tape = context.tape
        prepared: Subject = context.prepared  # type: ignore[assignment]  # a step's model is prepared
        has_entropy = not (reference and self.compared(prepared) == "model")
        dtype = context.hooks.param_dtype or "float32"
        entropy = [tape.new(shape, dtype, "entropy of other rows")] if has_entropy else []
        return [
            *entropy,
            tape.new(shape, "bool", "labeled, of other rows"),
            tape.new((), dtype, "loss of other rows"),
        ]


#: Marks around what earlier passes over other rows have left: their log-probabilities, and outputs of the last one.
OTHER_ROWS, OTHER_OUTPUTS, OWN_ROWS = "other rows", "other rows: outputs", "own rows"

#: The fewest completions of a prompt.
LEAST_GROUP = 2

#: The outputs of the head that the loss and the metrics read, of completions alone.
_NAMES = ("log-probabilities of completions", "entropy of completions")


def clipped(ratios: Tensor, advantages: Tensor) -> Tensor:
    """Return the clipped loss of each ratio: the negated minimum of two products."""
    bounded = indexing.clamp(ratios, "ratios, clipped")
    first, second = (ops.mul(factor, advantages, "ratio · advantage") for factor in (ratios, bounded))
    return ops.scale(selection.smaller(first, second, "smaller product"), "loss, negated")
