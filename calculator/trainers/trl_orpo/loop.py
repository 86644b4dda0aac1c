"""The micro-batch of TRL's ORPOTrainer.

Source: trl/experimental/orpo/orpo_trainer.py, concatenated_inputs, concatenated_forward, get_batch_logps and
odds_ratio_loss, of TRL 1.16; trl/trainer/orpo_trainer.py of TRL 0.15 to 0.24.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, ClassVar

from calculator.architecture.dimension import named
from calculator.engine import autocast, selection
from calculator.engine import operations as ops
from calculator.engine.tape import Tensor
from calculator.layers.loss import cross_entropy
from calculator.layers.trl.logprob_entropy import log_probs
from calculator.layers.trl.selected_logps import selected_log_probs
from calculator.trainers.ddp_outputs import returned
from calculator.trainers.logits_only import all_logits
from calculator.trainers.transformers.loop import in_float32
from calculator.trainers.trl import qlora
from calculator.trainers.trl.trainer import TrlTrainer
from calculator.trainers.trl_orpo.facts import FACTS

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.common.names import TrainerName
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.layers.loss import LossHead
    from calculator.trainers.loop import Passes
    from calculator.trainers.subject import Subject

#: The names of the tensors of both sequences of each row, and of its prompt.
_SEQUENCES = [
    f"{which}_{name}" for which in ("chosen", "rejected") for name in ("input_ids", "attention_mask", "labels")
]
_PROMPT = ["prompt_input_ids", "prompt_attention_mask"]


class TrlOrpo(TrlTrainer):
    """The loop of trl.experimental.orpo.ORPOTrainer."""

    __slots__ = ()
    name: ClassVar[TrainerName | None] = "trl-orpo"
    facts = FACTS

    def fetched(self, prepared: Subject) -> list[tuple[str, Shape, DType]]:
        """Return ids, mask and labels of both sequences of each row, and ids and mask of the prompts."""
        training = prepared.training
        rows = named(training.micro_batch_size, "B")
        pair_shape, prompt_shape = (rows, named(training.sequence_length, "S")), (rows, _prompt(training))
        return [
            *[(name, pair_shape, "int64") for name in _SEQUENCES],
            *[(name, prompt_shape, "int64") for name in _PROMPT],
        ]

    def batch(self, context: Context) -> list[Tensor]:
        """Return the ids of all sequences, which the step concatenates."""
        return [Tensor(context.tape, None, (context.batch, context.length), "int64", None)]

    def head(self, context: Context) -> LossHead:  # noqa: ARG002  a hook's signature
        """Return the model's own head, without labels."""
        return all_logits

    def loss(self, context: Context, forward: Passes) -> Tensor:
        """Run the model on both sequences, and compute the loss from all logits.

        If TRL has cast a 4-bit model, all of this runs in an autocast region with CUDA's default dtype. DeepSpeed
        leaves the region while the model runs. accelerate's autocast replaces it there, but FSDP2 has none.

        Source: deepspeed/runtime/torch_autocast.py, autocast_if_enabled.
        """
        tape, training = context.tape, context.training
        prepared = context.prepared
        given = training.autocast or prepared.cast_to or context.hooks.param_dtype
        casts = qlora.is_prepared_by_trl(prepared) and given == "bfloat16"
        with autocast.region(tape, "float16") if casts else nullcontext():
            loss = _loss(context, forward)
        loss = ops.scale(loss, "loss / gradient_accumulation_steps")
        tape.component = "activations"
        return loss


def _loss(context: Context, forward: Passes) -> Tensor:
    tape, dtype, rows = context.tape, context.training.autocast, context.training.micro_batch_size
    shape = (context.batch, context.length)
    concatenated = [tape.new(shape, "int64", f"concatenated {name}") for name in ("input_ids", "mask", "labels")]
    if context.training.padding:
        context.padding_mask = concatenated[1]
    stays = dtype is None and context.prepared.device.sharding == "fsdp"
    with nullcontext() if stays else autocast.region(tape, dtype):
        logits, outputs = forward(concatenated[0])
    tape.scope, tape.component = "loss: ", "logits_and_loss"
    del logits
    all_logits = outputs.pop()
    if dtype is not None:
        all_logits = in_float32(all_logits)
    all_logits, outputs = returned(context, all_logits, outputs)
    tape.scope = "loss: "
    labels = _labels(context, all_logits)
    nll = _chosen_nll(all_logits, labels, rows)
    logps = _average_logps(context, all_logits)
    context.drop_outputs()
    del concatenated, labels
    return _odds_ratio_loss(nll, logps, rows, _METRICS + (context.prepared.device.count > 1))


def _prompt(training: Training) -> int:
    """Return the tokens of the longest prompt that the labeled tokens of both sequences leave room for."""
    if training.completion_tokens is None:
        return 1
    return training.sequence_length - training.completion_tokens // 2 // training.micro_batch_size


def _labels(context: Context, all_logits: Tensor) -> Tensor:
    """Return the labels of all sequences, without those of padding."""
    tape, shape = all_logits.tape, all_logits.shape[:2]
    context.set_scope("loss: ")
    ids = tape.new(shape, "int64", "labels")
    masked = tape.new(shape, "bool", "tokens")
    labels = tape.new(shape, "int64", "labels of tokens")
    del ids, masked
    return labels


def _chosen_nll(all_logits: Tensor, labels: Tensor, rows: int) -> Tensor:
    """Return the cross-entropy of the chosen sequences, from a copy of their logits without the last position."""
    tape, (_, length, vocabulary) = all_logits.tape, all_logits.shape
    shorter = named(length - 1, "(S - 1)")
    chosen = ops.narrow(all_logits, (rows, length, vocabulary))
    chosen = ops.narrow(chosen, (rows, shorter, vocabulary))
    targets = None
    if rows > 1:
        chosen = ops.contiguous(chosen, "logits of the chosen, shifted")
        targets = tape.new((rows, shorter), "int64", "labels, shifted")
    flat = ops.view(chosen, (rows * shorter, vocabulary))
    loss = cross_entropy(flat, targets if targets is not None else labels.detach())
    del chosen, flat, targets
    return loss


def _average_logps(context: Context, all_logits: Tensor) -> Tensor:
    """Return the mean log-probability of each sequence's labeled tokens."""
    tape, (batch, length, vocabulary) = all_logits.tape, all_logits.shape
    context.set_scope("loss: ")
    shape = (batch, named(length - 1, "(S - 1)"))
    cloned = tape.new(shape, "int64", "labels, shifted")
    logits = ops.narrow(all_logits, (*shape, vocabulary))
    mask = tape.new(shape, "bool", "labeled")
    unlabeled = tape.new(shape, "bool", "unlabeled")
    index = tape.new(shape, "int64", "labels of the kernel")
    del cloned, unlabeled
    is_older = TrlOrpo.is_older(context.prepared.stack)
    per_token = selected_log_probs(logits, index) if is_older else log_probs(logits, index)
    total = ops.sum_over(ops.mul(per_token, mask, "log-probabilities, masked"), (batch,), "log-probabilities, summed")
    return ops.mul(total, tape.new((batch,), "int64", "labeled tokens"), "log-probabilities, mean")


def _odds_ratio_loss(nll: Tensor, logps: Tensor, rows: int, logged: int) -> Tensor:
    chosen, rejected = ops.split(logps, [(rows,), (rows,)])
    tape, vector = logps.tape, (rows,)
    complement = ops.subtract(_log1mexp(chosen), _log1mexp(rejected), "log(1 - p), difference")
    odds = ops.subtract(ops.subtract(chosen, rejected, "log p, difference"), complement, "log-odds")
    ratio = ops.unary(odds, "log-sigmoid", saves="input")
    losses = ops.scale(ratio, "β · log-sigmoid")
    rewards = [tape.new(vector, "float32", f"rewards of {which}") for which in ("chosen", "rejected")]
    means = [ops.sum_over(tensor, (), "mean, logged") for tensor in (ratio, odds)]
    del ratio, odds, complement
    loss = ops.subtract(nll, ops.sum_over(losses, (), "odds-ratio loss, mean"), "loss")
    accuracies = tape.new(vector, "float32", "accuracies of rewards")
    metrics = [tape.new((), "float32", "metric") for _ in range(logged)]
    del rewards, means, losses, accuracies, metrics
    return loss


#: The scalars that get_batch_loss_metrics logs. All of them are on the device before the first one is read. On several
#: GPUs, accelerate gathers a copy of each, and before the last one is gathered there is one tensor more.
_METRICS = 11


def _log1mexp(x: Tensor) -> Tensor:
    """Return log(1 - exp(x)).

    It has two formulas, and a comparison selects one.
    """
    condition = x.tape.new(x.shape, "bool", "log(1 - p): which formula")
    left = ops.unary(ops.scale(ops.unary(x, "exp", saves="result"), "-exp"), "log1p", saves="input")
    right = ops.unary(ops.scale(ops.unary(x, "expm1", saves="result"), "-expm1"), "log", saves="input")
    return selection.where(condition, left, right, "log(1 - p)")
