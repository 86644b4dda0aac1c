"""The micro-batch of DPOTrainer in TRL 0.15 to 0.24.

Source: trl/trainer/dpo_trainer.py, concatenated_inputs, concatenated_forward, compute_ref_log_probs and
get_batch_loss_metrics, of TRL 0.15.2 to 0.24.0.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import named
from calculator.engine import autocast
from calculator.engine import operations as ops
from calculator.engine.tape import Tensor
from calculator.layers.trl.selected_logps import fill_, roll, selected_log_probs
from calculator.layers.trl.sequence_logps import halves
from calculator.stack.releases import release
from calculator.trainers.trl import qlora
from calculator.trainers.trl.all_logits import converted

if TYPE_CHECKING:
    from calculator.architecture.dimension import Dim, Shape
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.trainers.loop import Passes

#: The first release that passes use_cache=False to the model, and the first that asks it for hidden states and leaves
#: the first position out of the sums.
WITHOUT_CACHE, HIDDEN_STATES = (0, 18), (0, 19)


class _Logps(NamedTuple):
    """The log-probabilities of sequences, and what else a pass returns."""

    sums: Tensor
    rest: list[Tensor]


def completion_length(training: Training) -> int:
    """Return the tokens of each completion. A prompt has a token if the request says no more."""
    if training.completion_tokens is None:
        return training.sequence_length - 1
    return training.completion_tokens // 2 // training.micro_batch_size


def fetched(training: Training) -> list[tuple[str, Shape, DType]]:
    """Return ids and mask of the prompts, and of the chosen and the rejected completions."""
    rows, prompt, completion = named(training.micro_batch_size, "B"), *_lengths(training)
    parts: list[tuple[str, Dim]] = [("prompt", prompt), ("chosen", completion), ("rejected", completion)]
    names = ("input_ids", "attention_mask")
    return [(f"{part}_{name}", (rows, length), "int64") for part, length in parts for name in names]


def _lengths(training: Training) -> tuple[Dim, Dim]:
    completion = completion_length(training)
    return named(training.sequence_length - completion, "prompt"), named(completion, "completion")


def loss(context: Context, forward: Passes) -> Tensor:
    """Run the model and then its reference, and compute the loss from the logits of both.

    If TRL has cast a 4-bit model, all of this runs in an autocast region with CUDA's default dtype.
    """
    tape, training = context.tape, context.training
    casts = qlora.is_prepared_by_trl(context.prepared) and training.autocast == "bfloat16"
    with autocast.region(tape, "float16") if casts else nullcontext():
        policy = _logps(context, forward, reference=False)
        reference = _reference(context, forward)
        out = _loss(halves(policy.sums, training.micro_batch_size), halves(reference, training.micro_batch_size))
        del policy, reference
    out = ops.scale(out, "loss / gradient_accumulation_steps")
    tape.component = "activations"
    return out


def _reference(context: Context, forward: Passes) -> Tensor:
    """Return the reference's log-probabilities of sequences. Precomputed ones have no storage here."""
    if context.training.precompute_ref_log_probs:
        return Tensor(context.tape, None, (context.batch,), "float32", None)
    return _logps(context, forward, reference=True).sums


def _logps(context: Context, forward: Passes, *, reference: bool) -> _Logps:
    """Run the model on prompts and completions joined, and compute the log-probabilities of the completions."""
    tape, training = context.tape, context.training
    tape.component = "activations"
    context.set_scope("")
    parts = _prompts_and_completions(context)
    ids, mask, loss_mask = _joined(context)
    if training.padding and not reference:
        context.padding_mask = mask
    with autocast.region(tape, training.autocast):
        passes = forward.no_grad("reference: ", reference=True) if reference else forward(ids)
    outputs = passes[1]
    del passes
    outputs = converted(context, outputs)
    tape.component = "logits_and_loss"
    context.set_scope("loss: ")
    labels, labeled = _labels(context, loss_mask)
    del loss_mask
    logits = outputs[0]
    per_token = fill_(selected_log_probs(logits, labels), tape.new(labels.shape, "bool", "tokens without a label"))
    per_token = roll(per_token, "log-probabilities of tokens")
    rows, length = per_token.shape
    kept = per_token
    if release(context.prepared.stack.trl)[:2] >= HIDDEN_STATES:
        kept = ops.slice_from_end(per_token, (rows, named(length - 1, "S - 1")))
    sums = ops.sum_over(kept, (rows,), "log-probabilities of sequences")
    if training.loss_type == "ipo":
        sums = ops.divide(sums, tape.new((rows,), "int64", "labeled tokens of sequences"), "mean log-probabilities")
    means = [_mean_logits(context, logits, rejected=rejected) for rejected in (False, True)]
    context.drop_outputs()
    del parts, ids, mask, outputs, logits, labels, per_token, kept
    return _Logps(sums, [*means, labeled])


def _prompts_and_completions(context: Context) -> list[Tensor]:
    """Return ids and masks of the prompts of both sequences, and of both completions."""
    shapes = [(context.batch, length) for length in _lengths(context.training)]
    names = ("prompt_input_ids", "prompt_attention_mask", "completion_input_ids", "completion_attention_mask")
    return [context.tape.new(shapes[number // 2], "int64", name) for number, name in enumerate(names)]


def _joined(context: Context) -> list[Tensor]:
    """Return ids, mask and labeled tokens of prompts and completions, without padding at their left (flush_left)."""
    shape, tape = (context.batch, context.length), context.tape
    names = ("input_ids", "attention_mask", "loss_mask")
    joined = [tape.new(shape, "int64", f"{name}, joined") for name in names]
    flushed = [tape.new(shape, "int64", name) for name in names]
    del joined
    return flushed


def _labels(context: Context, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next token of each position, and whether it has a label."""
    tape, shape = context.tape, loss_mask.shape
    labels = tape.new(shape, "int64", "labels")
    rolled = tape.new(shape, "int64", "loss_mask, rolled")
    labeled = tape.new(shape, "bool", "tokens with a label")
    del rolled
    return labels, labeled


def _mean_logits(context: Context, logits: Tensor, *, rejected: bool) -> Tensor:
    """Return the mean logit of the completions' tokens, whose logits are copied."""
    tape, training = context.tape, context.training
    count = training.micro_batch_size * completion_length(training) - (training.padding and not rejected)
    rows = named(count, "labeled tokens")
    indices = tape.scratch((rows, 2), "int64", "indices of labeled tokens")
    selected = tape.new((rows, logits.shape[-1]), logits.dtype, "logits of labeled tokens")
    del indices
    mean = tape.new((), logits.dtype, "mean logit")
    del selected
    return mean


def _loss(policy: list[Tensor], reference: list[Tensor]) -> Tensor:
    """Compute the loss `sigmoid`, which represents every loss."""
    trained, other = (
        ops.subtract(chosen, rejected, "difference of log-probabilities") for chosen, rejected in (policy, reference)
    )
    delta = ops.subtract(trained, other, "difference of log-ratios")
    losses = ops.unary(ops.scale(delta, "β · difference"), "log-sigmoid", saves="input")
    losses = ops.scale(losses, "loss of each pair")
    return ops.sum_over(ops.scale(losses, "loss of each pair, weighted"), (), "loss, mean")
