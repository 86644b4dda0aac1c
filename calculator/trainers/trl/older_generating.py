"""The generation batch, log-probabilities and entropies of completions in GRPOTrainer and RLOOTrainer up to TRL 0.24.

Source: trl/trainer/grpo_trainer.py, _generate_and_score_completions, _compute_loss, and
_get_per_token_logps_and_entropies or _get_per_token_logps, of TRL 0.17.0, 0.18.2, 0.19.1, 0.20.0, 0.21.0, 0.22.2,
0.23.1 and 0.24.0; trl/trainer/rloo_trainer.py of TRL 0.22.2, 0.23.1 and 0.24.0; trl/trainer/utils.py,
entropy_from_logits; trl/models/utils.py, unwrap_model_for_generation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.engine import operations as ops
from calculator.engine.tape import SlicedTensor, Tensor
from calculator.layers.loss import logits_of
from calculator.layers.trl.logits_metrics import entropies_by_rows, entropies_by_sequence
from calculator.layers.trl.selected_logps import selected_log_probs
from calculator.stack.releases import release
from calculator.stack.verified import passes_problems
from calculator.trainers.transformers.loop import in_float32
from calculator.trainers.trl import generated, qlora
from calculator.trainers.trl.trainer import in_4_bits
from calculator.trainers.trl_sft.releases import ENTROPY_OF_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Dim, Shape
    from calculator.common.dtype import DType
    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.trainers.subject import Subject


#: The first release that pads lists of tokens. Before, the completions are views of what `generate` returns.
PADS_LISTS = (0, 24)

#: The first release that disables checkpointing while it generates, and passes use_cache=False to the model. It is also
#: the first one that prepares 4-bit models, scales the loss itself, and has the loss dapo.
PREPARES = (0, 22)

#: The first release that computes entropies.
LOGS_ENTROPY = (0, 20)

#: The releases whose reference computes the log-probabilities of all completions of a step at once, and those whose
#: reference runs in the loss of each micro-batch, after the model.
SCORES_AT_ONCE, SCORES_IN_LOSS = ((0, 19),), ((0, 18),)

#: The first release whose `beta` is 0 by default, and the default before it.
WITHOUT_REFERENCE, BETA = (0, 19), 0.04

#: The first release that unsets use_cache in the trained model's config alone under checkpointing.
UNSETS_ONE = (0, 20)

#: The first release that shuffles a generation batch. Before, its default `temperature` is 0.9 and its `top_k` 50.
SHUFFLES = (0, 18)

#: The release in which a 4-bit model fails. Source: TRL 0.22.2, models/utils.py, prepare_peft_model
#: (dataclasses.replace); trainer/grpo_config.py, GRPOConfig.__post_init__.
COPIES_ARGUMENTS = (0, 22)

#: The release that slices the logits once, since the model returns those of the completions and one more.
SLICES_ONCE = (0, 19)

#: The first transformers whose checkpointed layers leave the cache of `generate` empty.
#: Source: transformers 4.53.3, modeling_layers.py, GradientCheckpointingLayer.__call__.
LEAVES_CACHE_EMPTY = (4, 53)

#: The first release that generates the completions of all micro-batches of a step at once, and has `loss_type`.
GENERATES_STEPS = (0, 17)

#: The first transformers whose Trainer calls `_get_train_sampler` with a dataset.
#: Source: transformers 4.52.4, trainer.py, Trainer._get_dataloader.
GIVES_DATASETS = (4, 52)

#: The first transformers whose models take `logits_to_keep`.
#: Source: transformers 4.48.3, models/llama/modeling_llama.py, LlamaForCausalLM.forward (num_logits_to_keep).
KEEPS_LOGITS = (4, 49)

#: The losses of later releases.
OTHER_LOSSES = ("cispo", "sapo", "luspo", "vespo")


def problems(prepared: Subject, trainer: str) -> Iterator[Problem]:
    """Yield settings of a generating trainer in an older release that are not modeled."""
    training, stack, model = prepared.training, prepared.stack, prepared.model
    trainer = f"{trainer} of TRL {stack.trl}"
    slides = any(layer.kind.attention == "sliding_attention" for layer, _ in model.decoder.distinct)
    window = model.config.get("sliding_window") if slides else None
    # The last token is not run.
    tokens = training.sequence_length - 1
    yield from passes_problems(stack, model.model_type, prepared.method.name, tokens, window=window)
    if release(stack.transformers)[:2] < KEEPS_LOGITS:
        message = (
            f"transformers {stack.transformers} does not know the argument logits_to_keep of {trainer}, and computes"
            " the logits of every token, which is not modeled: use 4.49 or later"
        )
        yield Problem(loc="stack.transformers", msg=message, input=stack.transformers)
    for name, given in (("use_vllm", training.use_vllm), ("padding", training.padding)):
        if given:
            message = f"is not modeled with {trainer}: use false"
            yield Problem(loc=f"training.{name}", msg=message, input=True)
    if training.attention == "flash_attention_2":
        message = f"generate with it is not modeled with {trainer}: use sdpa or eager"
        yield Problem(loc="training.attention", msg=message, input=training.attention)
    if training.autocast == "bfloat16" and in_4_bits(prepared) and qlora.prepares(training, stack):
        message = (
            f"TRL {stack.trl} casts the output head of a 4-bit model to bfloat16, and generate runs outside autocast:"
            " most models then give the head float32, and fail. Leave it out"
        )
        yield Problem(loc="training.autocast", msg=message, input=training.autocast)
    if in_4_bits(prepared) and release(stack.trl)[:2] == COPIES_ARGUMENTS:
        message = (
            f"{trainer} copies its arguments for a 4-bit model, and fails, because the copy sets"
            " both generation_batch_size and steps_per_generation: use stack.trl 0.23"
        )
        yield Problem(loc="method.name", msg=message, input=prepared.method.name)
    if release(stack.trl)[:2] < GENERATES_STEPS:
        yield from _before_steps(training, stack, trainer)
    has_dapo = release(stack.trl)[:2] >= PREPARES
    if training.loss_type in OTHER_LOSSES or (training.loss_type == "dapo" and not has_dapo):
        known = "dapo, grpo, bnpo or dr_grpo" if has_dapo else "grpo, bnpo or dr_grpo"
        message = f"{trainer} has no {training.loss_type}: use {known}"
        yield Problem(loc="training.loss_type", msg=message, input=training.loss_type)


def _before_steps(training: Training, stack: StackVersions, trainer: str) -> Iterator[Problem]:
    """Yield settings of a release that generates the completions of each micro-batch by themselves."""
    if release(stack.transformers)[:2] >= GIVES_DATASETS:
        message = f"{trainer} fails with transformers {stack.transformers}, which gives its sampler a dataset"
        yield Problem(loc="stack.transformers", msg=f"{message}: use 4.49 to 4.51", input=stack.transformers)
    if training.gradient_accumulation_steps > 1:
        message = (
            f"{trainer} generates in each micro-batch, which is not modeled with several: use 1, or stack.trl 0.17"
        )
        yield Problem(
            loc="training.gradient_accumulation_steps", msg=message, input=training.gradient_accumulation_steps
        )
    if training.loss_type is not None:
        message = f"{trainer} has one loss: leave it out, or use stack.trl 0.17"
        yield Problem(loc="training.loss_type", msg=message, input=training.loss_type)


def sentences(prepared: Subject, *, scores: bool) -> Iterator[str]:
    """Yield sentences on the tensors of an older release. `scores`: whether there is a reference."""
    stack = prepared.stack
    computed = "log-probabilities and entropies" if logs_entropy(stack) else "log-probabilities"
    yield (
        f"TRL {stack.trl} computes {computed} from the logits of the completions, which are copied. Its generate keeps"
        " the inputs of a pass until the next one."
    )
    if turns_checkpointing_off(stack):
        yield f"TRL {stack.trl} turns checkpointing on again as re-entrant after generate."
    if scores and scores_at_once(stack):
        yield f"In TRL {stack.trl}, the reference scores all completions of a step at once."
    if scores and scores_in_loss(stack):
        yield f"In TRL {stack.trl}, the reference runs in each micro-batch, between the model and its backward pass."


def leaves_cache_empty(stack: StackVersions) -> str:
    """Return the sentence on checkpointed layers that leave the cache of `generate` empty."""
    return (
        f"TRL {stack.trl} leaves checkpointing on while completions are generated, and the checkpointed layers of"
        f" transformers {stack.transformers} leave the cache empty: each token follows from the token before it alone."
        " Use TRL 0.22 or later, or no gradient_checkpointing."
    )


def beta_by_default(stack: StackVersions) -> float:
    """Return the default of `beta`."""
    return 0.0 if release(stack.trl)[:2] >= WITHOUT_REFERENCE else BETA


def logs_entropy(stack: StackVersions) -> bool:
    """Return whether the entropies of the completions' tokens are computed."""
    return release(stack.trl)[:2] >= LOGS_ENTROPY


def scores_at_once(stack: StackVersions) -> bool:
    """Return whether the reference computes the log-probabilities of all completions of a step in one pass."""
    return release(stack.trl)[:2] in SCORES_AT_ONCE


def scores_in_loss(stack: StackVersions) -> bool:
    """Return whether the reference runs in the loss of each micro-batch, after the model."""
    return release(stack.trl)[:2] in SCORES_IN_LOSS


def rows_of_pass(context: Context) -> tuple[int, Dim, Dim]:
    """Return the number of passes of the reference before the last one, the rows of a pass, and those of all passes."""
    training, stack = context.training, context.prepared.stack
    if scores_in_loss(stack):
        return 0, context.batch, context.batch
    rows = generated.rows(training)
    return (0, rows, rows) if scores_at_once(stack) else (training.micro_batches - 1, context.batch, rows)


def turns_checkpointing_off(stack: StackVersions) -> bool:
    """Return whether checkpointing is disabled while completions are generated."""
    return release(stack.trl)[:2] >= PREPARES


def passes_no_cache(stack: StackVersions) -> bool:
    """Return whether use_cache=False is passed to the model."""
    return release(stack.trl)[:2] >= PREPARES


def shuffles(stack: StackVersions) -> bool:
    """Return whether a generation batch is shuffled, which copies it."""
    return release(stack.trl)[:2] >= SHUFFLES


def warps_scores(stack: StackVersions) -> bool:
    """Return whether the defaults of `temperature` and `top_k` change the scores of the next token."""
    return release(stack.trl)[:2] < SHUFFLES


def grads_inputs(training: Training, stack: StackVersions) -> bool:
    """Return whether the trainer itself registers a hook with which embeddings require a gradient.

    Source: TRL 0.21.0, trainer/grpo_trainer.py, _enable_gradient_checkpointing (enable_input_require_grads).
    """
    given = training.gradient_checkpointing_kwargs
    reenters = given is None or given.use_reentrant
    return training.gradient_checkpointing and reenters and not turns_checkpointing_off(stack)


def copies_reference(stack: StackVersions) -> bool:
    """Return whether a second model is a copy of the trained one. Source: create_reference_model (deepcopy)."""
    return release(stack.trl)[:2] < WITHOUT_REFERENCE


def unsets_cache(training: Training, stack: StackVersions) -> bool:
    """Return whether use_cache is false in the reference's config.

    Up to 0.18 the reference is a copy of the model. TRL 0.19 loads both with use_cache=False if the model is given by
    its name. Later releases set it in the config of the trained model alone.
    """
    return training.gradient_checkpointing and release(stack.trl)[:2] < UNSETS_ONE


def counts_tokens(stack: StackVersions) -> bool:
    """Return whether the number of the completions' tokens is part of the generation batch."""
    return release(stack.trl)[:2] >= PREPARES


def fills_cache(prepared: Subject) -> bool:
    """Return whether the passes of `generate` keep keys and values. Layers that are checkpointed do not."""
    checkpoints = prepared.training.gradient_checkpointing and not turns_checkpointing_off(prepared.stack)
    return not checkpoints or release(prepared.stack.transformers)[:2] < LEAVES_CACHE_EMPTY


def tokens(prepared: Subject) -> list[tuple[str, Shape, DType]]:
    """Return the prompts and completions of a generation batch, and their masks, after they were shuffled."""
    token_tensors = generated.tokens(prepared.training)
    if release(prepared.stack.trl)[:2] >= PADS_LISTS:
        return token_tensors
    if not shuffles(prepared.stack):
        (_, (rows, prompt), _), _, (_, (_, length), _), _ = token_tensors
        return [
            ("prompt_completion_ids", (rows, prompt + length), "int64"),
            token_tensors[1],
            ("completion_mask", (rows, length), "int32"),
        ]
    return [(name, shape, "int32" if name == "completion_mask" else dtype) for name, shape, dtype in token_tensors]


def unshuffled(context: Context, step_tensors: list[tuple[str, Shape, DType]]) -> tuple[list[Tensor], list[Tensor]]:
    """Create the tokens of a generation batch before they are shuffled, and what is alive while they are scored.

    `step_tensors` are the tokens of the default release.
    """
    tape, stack = context.tape, context.prepared.stack
    (_, (rows, prompt), _), _, (_, (_, length), _), _ = step_tensors
    whole = (rows, context.length)
    if release(stack.trl)[:2] >= PADS_LISTS:
        batch = [tape.new(shape, dtype, name) for name, shape, dtype in step_tensors]
        return batch, [tape.new(whole, "int64", name) for name in ("prompt_completion_ids", "attention_mask")]
    given = [tape.new((rows, prompt), "int64", "input_ids of prompts")]
    batch = [tape.new((rows, prompt), "int64", "prompt_mask"), tape.new(whole, "int64", "prompt_completion_ids")]
    given += [
        tape.new((rows, length), "bool", "is_eos"),
        tape.new((rows,), "int64", "eos_idx"),
        tape.new((length,), "int64", "sequence_indices"),
    ]
    batch.append(tape.new((rows, length), "int32", "completion_mask"))
    if shuffles(stack):
        given.append(tape.new((rows,), "int64", "completion_lengths"))
    given.append(tape.new(whole, "int64", "attention_mask"))
    return batch, given


def entropies(stack: StackVersions, logits: Tensor, shape: Shape) -> Tensor | None:
    """Return the entropies of the completions' tokens, if they are computed. logits: (sequences, C, vocab_size)."""
    if not logs_entropy(stack):
        return None
    by = entropies_by_rows if release(stack.trl)[:2] >= ENTROPY_OF_ROWS else entropies_by_sequence
    return by(logits.detach(), shape)


def logits_of_completions(context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the logits of the completions and of the token before them (logits_to_keep), also in place of the loss."""
    rows, length, width = hidden_states.shape
    kept: Shape = (rows, named(generated.completion(context.training) + 1, "C + 1"), width)
    last = ops.slice_from_end(hidden_states, kept)
    if rows > 1 and kept[1] != length:
        sliced = SlicedTensor(last.tape, last.storage, kept, last.dtype, None)
        sliced.edge = last.edge
        last = sliced
    del hidden_states
    logits = logits_of(context, context.forward, last)
    return logits, [logits]


def scaled(context: Context, logits: Tensor) -> Tensor:
    """Return the logits of the completions, divided by the temperature. logits: (sequences, C + 1, vocab_size)."""
    rows, length, vocabulary = logits.shape
    shape: Shape = (rows, named(length - 1, "C"), vocabulary)
    context.set_scope("loss: ")
    logits = ops.narrow(logits, shape)
    if release(context.prepared.stack.trl)[:2] != SLICES_ONCE:
        logits = ops.slice_from_end(logits, shape)
    return ops.scale(logits, "logits / temperature")


def log_probs(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the log-probabilities of the completions' tokens. logits: (sequences, C, vocab_size)."""
    shape = logits.shape[:2]
    return selected_log_probs(logits, Tensor(ids.tape, ids.storage, shape, "int64", None))


def returned_logits(context: Context, outputs: list[Tensor]) -> Tensor:
    """Take the logits out of the model's outputs, in float32 after autocast."""
    logits = outputs.pop()
    return logits if context.training.autocast is None else in_float32(logits)


def left_by_other_rows(context: Context, dtype: DType) -> list[Tensor]:
    """Return the scaled logits of other rows, to which a variable still refers while the next rows run."""
    shape = (context.batch, generated.completion(context.training), context.model.output.out_features)
    return [context.tape.new(shape, dtype, "logits of other rows")]


def dtype_of_logps(prepared: Subject) -> DType:
    """Return the dtype of log-probabilities: that of the logits."""
    head = prepared.model.output
    return "float32" if prepared.training.autocast is not None else prepared.module_spec(head.name, head).dtype
