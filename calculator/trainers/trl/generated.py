"""Prompts and completions in a generation batch of TRL's generating trainers: sizes, refusals and sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.engine import operations as ops
from calculator.engine.tape import Tensor
from calculator.families import has_no_length
from calculator.layers.masks import is_recurrent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Dim, Shape
    from calculator.architecture.model import Model
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.trainers.subject import Subject


#: The candidates for the completions per prompt without `num_generations`: TRL's default (trl/trainer/grpo_config.py),
#: then smaller numbers. The first one that gives whole groups is used.
NUM_GENERATIONS = (8, 4, 2, 3, 5, 7)


#: The tokens of a generation batch, and their masks.
_TOKENS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")


def completion(training: Training) -> Dim:
    """Return the length of the completions: all tokens of a sequence but one, unless there is a limit."""
    limit = training.max_completion_length
    return named(training.sequence_length - 1 if limit is None else limit, "C")


def rows(training: Training) -> Dim:
    """Return the number of rows of a generation batch, which is that of a whole step."""
    rows_of_batch = named(training.micro_batch_size, "B")
    return rows_of_batch if training.micro_batches == 1 else training.micro_batches * rows_of_batch


def tokens(training: Training) -> list[tuple[str, Shape, DType]]:
    """Return the prompts and completions of a generation batch, and their masks."""
    count, length = rows(training), completion(training)
    prompts, completions = (count, named(training.sequence_length - length, "P")), (count, length)
    return [(name, shape, "int64") for name, shape in zip(_TOKENS, 2 * [prompts] + 2 * [completions], strict=True)]


def completions_in_evaluation(training: Training, together: int, ranks: int) -> int:
    """Return the number of completions of each prompt in an evaluation.

    `together` is the number of rows of a batch on all GPUs. Without `num_generations`, it is that of the training, if
    the rows form whole groups, as TRL requires.
    """
    if training.num_generations is not None:
        return training.num_generations
    step_generations = generations(+rows(training) * ranks)
    return step_generations if together % step_generations == 0 else generations(together)


def generations(together: int) -> int:
    """Return the number of completions of each prompt without `num_generations`.

    `together` is the number of rows on all GPUs.
    """
    return next((size for size in NUM_GENERATIONS if together % size == 0), together)


def dtype_of_logps(prepared: Subject) -> DType:
    """Return the dtype of log-probabilities.

    FSDP2 casts the outputs of its root with mixed precision.
    """
    training = prepared.training
    return (training.autocast if prepared.device.sharding == "fsdp" else None) or "float32"


def unowned(context: Context, shape: Shape, dtype: DType) -> Tensor:
    """Return a view of the generation batch, whose bytes belong to resident tensors."""
    return Tensor(context.tape, None, shape, dtype, None)


def completion_values(context: Context, x: Tensor, name: str) -> Tensor:
    """Return a copy of the values for the completions' tokens.

    x: (sequences, length - 1).
    """
    shape = (context.batch, completion(context.training))
    return ops.cat((ops.slice_from_end(x, shape),), shape, name)


def problems(training: Training, trainer: str, ranks: int) -> Iterator[Problem]:
    """Yield numbers and lengths of completions that the trainer refuses. `ranks` is the number of GPUs."""
    rows, group = training.micro_batch_size * training.micro_batches * ranks, training.num_generations
    if group is None and rows < 2:
        message = (
            f"{trainer} needs 2 completions of each prompt in a step: use micro_batch_size or "
            "gradient_accumulation_steps 2"
        )
        yield Problem(loc="training.micro_batch_size", msg=message, input=training.micro_batch_size)
    if group is not None and rows % group:
        message = (
            f"a step has {rows:,} {'row' if rows == 1 else 'rows'}, which cannot be divided into groups of {group:,}"
            f" completions: use a divisor of {rows:,}, or leave it out, since no figure depends on it"
        )
        yield Problem(loc="training.num_generations", msg=message, input=group)
    limit = training.max_completion_length
    if limit is not None and limit >= training.sequence_length:
        message = f"a sequence of {training.sequence_length:,} tokens has a prompt of 1 or more: use at most the rest"
        yield Problem(loc="training.max_completion_length", msg=message, input=limit)
    rows_of_one = training.micro_batch_size
    most = rows_of_one * +completion(training)
    if training.completion_tokens is not None and training.completion_tokens > most:
        message = f"the completions of a micro-batch have {most:,} tokens: use at most that many"
        yield Problem(loc="training.completion_tokens", msg=message, input=training.completion_tokens)
    elif training.completion_tokens not in (None, most) and not training.padding:
        message = (
            f"completions of different lengths are padded: set training.padding, use a multiple of {rows_of_one:,} for "
            f"completions of one length, or leave it out for all {most:,} tokens"
        )
        yield Problem(loc="training.completion_tokens", msg=message, input=training.completion_tokens)


def cache_problems(model: Model, training: Training) -> Iterator[Problem]:
    """Yield caches and kernels with which generation is refused.

    They are caches without a length, kernels of packages, and completions during which `generate` starts a new cache.

    Source: transformers/models/phi3/modeling_phi3.py, prepare_inputs_for_generation; phimoe has the same.
    """
    if has_no_length(model):
        message = "no layer attends, and generate finds no length of the cache: set use_vllm, or use another trainer"
        yield Problem(loc="training.trainer", msg=message, input=training.trainer)
    if training.kernels and is_recurrent(model):
        message = f"what {' and '.join(training.kernels)} allocate for one token is not modeled"
        yield Problem(loc="training.kernels", msg=f"{message}: leave it out, or set use_vllm", input=training.kernels)
    most = model.config.get("original_max_position_embeddings")
    if model.model_type not in ("phi3", "phimoe") or most is None:
        return
    length = training.sequence_length
    if length - int(completion(training)) <= most < length - 1:
        message = (
            f"generate drops the cache of {model.model_type} when a sequence first has more than {most:,} tokens "
            "(original_max_position_embeddings), and runs all of it again, which is not modeled: use at most "
            f"{most + 1:,}"
        )
        yield Problem(loc="training.sequence_length", msg=message, input=length)


def lengths(training: Training) -> str:
    """Return the sentence on the lengths of prompts and completions."""
    length = +completion(training)
    return (
        f"The longest completion of a step has {length:,} tokens, the longest prompt the other "
        f"{training.sequence_length - length:,} of sequence_length."
    )


def by_generate(training: Training) -> str:
    """Return the sentence on how completions are generated without vLLM."""
    return (
        f"The phase generation is that of transformers' generate: the {+rows(training):,} completions of a step at "
        "once, with the model in training mode, its adapters on and a cache of keys and values. With PEFT it runs "
        "outside autocast, in the dtypes of the weights. Its peak is that of the prompts' pass, of the second token or "
        "of the last one. What it reserves follows the rule, and is compared with what the other phases reserve."
    )
