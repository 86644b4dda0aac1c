"""The micro-batch of TRL's RewardTrainer before 0.24, which runs the model on each sequence of a pair by itself.

Source: trl/trainer/reward_trainer.py, RewardTrainer.__init__ and compute_loss, of TRL 0.15.2 to 0.23.1;
trl/trainer/utils.py, RewardDataCollatorWithPadding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.engine import autocast
from calculator.engine import operations as ops
from calculator.engine.tape import Tensor
from calculator.stack.releases import release
from calculator.trainers.transformers.loop import in_float32
from calculator.trainers.trl.trainer import in_4_bits
from calculator.trainers.trl_reward.pairs import loss_of_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.trainers.loop import Passes
    from calculator.trainers.subject import Subject

#: The first release that runs both sequences of a pair together.
RUNS_PAIRS = (0, 24)

#: The first release that makes the embeddings of an adapted model require a gradient, as re-entrant checkpoints need.
#: Source: TRL 0.22.2, models/utils.py, prepare_peft_model (enable_gradient_checkpointing). Before, only PEFT's
#: prepare_model_for_kbit_training does.
GRADS_INPUTS = (0, 22)

#: The tensors of a micro-batch.
_BATCH = tuple(f"{name}_{which}" for which in ("chosen", "rejected") for name in ("input_ids", "attention_mask"))


def runs_each(stack: StackVersions) -> bool:
    """Return whether the model runs on each sequence of a pair by itself."""
    return release(stack.trl)[:2] < RUNS_PAIRS


def problems(prepared: Subject) -> Iterator[Problem]:
    """Yield re-entrant checkpoints through which no gradient reaches the adapters."""
    training, stack, method = prepared.training, prepared.stack, prepared.method
    given = training.gradient_checkpointing_kwargs
    reenters = training.gradient_checkpointing and (given is None or given.use_reentrant)
    if reenters and method.facts.config_class and not in_4_bits(prepared) and release(stack.trl)[:2] < GRADS_INPUTS:
        message = (
            f"RewardTrainer of TRL {stack.trl} leaves the embeddings without a gradient, so that re-entrant"
            " checkpointing trains no adapter: set training.gradient_checkpointing_kwargs.use_reentrant false"
        )
        yield Problem(loc="training.gradient_checkpointing", msg=message, input=True)


def fetched(training: Training) -> list[tuple[str, Shape, DType]]:
    """Return ids and mask of both sequences of each row."""
    shape = named(training.micro_batch_size, "B"), named(training.sequence_length, "S")
    return [(name, shape, "int64") for name in _BATCH]


def loss(context: Context, forward: Passes) -> Tensor:
    """Run the model on the chosen sequences and on the rejected ones, and compute the loss from their scores."""
    chosen = _scores(context, forward, "chosen: ")
    rejected = _scores(context, forward, "")
    context.tape.scope, context.tape.component = "loss: ", "logits_and_loss"
    loss = loss_of_pairs(chosen, rejected)
    del chosen, rejected
    loss = ops.scale(loss, "loss / gradient_accumulation_steps")
    context.tape.component = "activations"
    return loss


def _scores(context: Context, forward: Passes, name: str) -> Tensor:
    """Run the model, and return the scores of its sequences. The rest of its output is freed."""
    tape, dtype = context.tape, context.training.autocast
    ids = Tensor(tape, None, (context.batch, context.length), "int64", None)
    with autocast.region(tape, dtype):
        scores, outputs = forward.run_again(name, ids)
    del scores
    scores = outputs.pop()
    tape.scope, tape.component = "loss: ", "logits_and_loss"
    if dtype is not None:
        scores = in_float32(scores)
    tape.component = "activations"
    return scores
