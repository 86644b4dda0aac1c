"""The micro-batch of KTOTrainer in TRL 0.15 to 0.24.

Source: trl/trainer/kto_trainer.py, _process_tokens, forward, get_batch_logps, _compute_kl_logps and
get_batch_loss_metrics, of TRL 0.15.2 to 0.24.0.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.engine import autocast, indexing
from calculator.engine import operations as ops
from calculator.layers.trl.selected_logps import selected_log_probs
from calculator.stack.releases import release
from calculator.trainers.trl import qlora
from calculator.trainers.trl.all_logits import converted
from calculator.trainers.trl.trainer import in_4_bits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.trainers.loop import Passes
    from calculator.trainers.subject import Subject

#: The tensors of a batch with precomputed log-probabilities of the reference.
REFERENCES = ("reference_logps", "reference_KL_logps")

#: The first release that counts the rows before the model runs, and that computes the log-probabilities for the KL
#: divergence in a function of their own. Before, their logits stay while the model runs.
COUNTS_FIRST = DROPS_KL_LOGITS = (0, 17)


class _Output(NamedTuple):
    """The log-probabilities of the rows, and copies of the logits of desirable and of undesirable rows."""

    logps: list[Tensor]
    logits: list[Tensor]
    kl: Tensor | None


def problems(prepared: Subject, *, estimates_kl: bool) -> Iterator[Problem]:
    """Yield a 4-bit model in TRL's own region of autocast, whose copies the pass for the KL divergence makes first.

    These copies have no graph, and the model's own pass finds them in the cache.
    Source: aten/src/ATen/autocast_mode.cpp, cached_cast.
    """
    if estimates_kl and prepared.training.autocast == "bfloat16" and in_4_bits(prepared):
        message = (
            f"KTOTrainer of TRL {prepared.stack.trl} estimates the KL divergence under torch.no_grad in a region of"
            " autocast around the step, whose cached copies of adapters then have no graph: use apo_zero_unpaired, or"
            " no autocast"
        )
        yield Problem(loc="training.autocast", msg=message, input=prepared.training.autocast)


def fetched(training: Training, *, estimates_kl: bool) -> list[tuple[str, Shape, DType]]:
    """Return ids and masks of prompts and answers, ids, masks and labels of both together, and the same for the KL."""
    rows, length = named(training.micro_batch_size, "B"), named(training.sequence_length, "S")
    completion = training.sequence_length - 1
    if training.completion_tokens is not None:
        completion = training.completion_tokens // training.micro_batch_size
    prompt, answer = named(training.sequence_length - completion, "prompt"), named(completion - 1, "answer")
    joined = ("completion_input_ids", "completion_attention_mask", "completion_labels")
    prompt_names = ("prompt_input_ids", "prompt_attention_mask")
    tensors: list[tuple[str, Shape, DType]] = []
    tensors += [(name, (rows, prompt), "int64") for name in prompt_names]
    tensors += [(name, (rows, answer), "int64") for name in ("answer_input_ids", "answer_attention_mask")]
    tensors += [(name, (rows, length), "int64") for name in joined]
    if estimates_kl:
        tensors += [(f"KL_{name}", (rows, prompt), "int64") for name in prompt_names]
        tensors += [(f"KL_{name}", (rows, length), "int64") for name in joined]
    if training.precompute_ref_log_probs:
        tensors += [(name, (rows,), "float32") for name in REFERENCES[: 1 + estimates_kl]]
    return tensors


def loss(context: Context, forward: Passes, *, estimates_kl: bool) -> Tensor:
    """Run the model and then its reference, and compute the loss from the logits of both.

    If TRL has cast a 4-bit model, all of this runs in an autocast region with CUDA's default dtype.
    """
    tape, training = context.tape, context.training
    casts = qlora.is_prepared_by_trl(context.prepared) and training.autocast == "bfloat16"
    with autocast.region(tape, "float16") if casts else nullcontext():
        tape.component = "logits_and_loss"
        counted = ("desirable", "undesirable") if release(context.prepared.stack.trl)[:2] >= COUNTS_FIRST else ()
        counts = [tape.new((), "int64", f"{name} rows") for name in counted]
        policy = _forward(context, forward, estimates_kl=estimates_kl, reference=False)
        reference = _reference(context, forward, policy, estimates_kl=estimates_kl)
        out = _loss(context, policy, reference)
        del counts, policy, reference
    out = ops.scale(out, "loss / gradient_accumulation_steps")
    tape.component = "activations"
    return out


def _reference(context: Context, forward: Passes, policy: _Output, *, estimates_kl: bool) -> _Output:
    """Return the reference's output, with the logits of the undesirable rows alone. Precomputed ones have no logits."""
    if context.training.precompute_ref_log_probs:
        logps = [context.tape.new(own.shape, "float32", "reference's log-probabilities") for own in policy.logps]
        return _Output(logps, [], None)
    output = _forward(context, forward, estimates_kl=estimates_kl, reference=True)
    return _Output(output.logps, output.logits[1:], output.kl)


def _forward(context: Context, forward: Passes, *, estimates_kl: bool, reference: bool) -> _Output:
    """Run the model on the batch for the KL divergence, and then on the batch itself."""
    tape, training = context.tape, context.training
    kl, left = _kl(context, forward, reference=reference) if estimates_kl else (None, [])
    tape.component = "activations"
    context.set_scope("")
    with autocast.region(tape, training.autocast):
        passes = forward.no_grad("reference: ", reference=True) if reference else forward()
    outputs = passes[1]
    del passes
    outputs = converted(context, outputs)
    tape.component = "logits_and_loss"
    logits = outputs[0]
    sums = _logps(context, logits)
    sizes = training.micro_batch_size // 2, training.micro_batch_size - training.micro_batch_size // 2
    logps = [_rows(sums, size, "log-probabilities of rows") for size in sizes]
    copies = [_rows(logits, size, "logits of rows") for size in sizes]
    context.drop_outputs()
    del outputs, logits, sums, left
    return _Output(logps, copies, kl)


def _kl(context: Context, forward: Passes, *, reference: bool) -> tuple[Tensor, list[Tensor]]:
    """Return the log-probabilities of the batch for the KL divergence, and the logits if they stay.

    Of the model's outputs, the logits alone are kept.
    """
    tape, dtype = context.tape, context.training.autocast
    name = "KL, reference: " if reference else "KL: "
    with autocast.region(tape, dtype):
        passes = forward.no_grad(name, reference=reference)
    outputs = converted(context, passes[1])
    del passes
    logits = outputs[0]
    del outputs
    tape.component = "logits_and_loss"
    logps = _logps(context, logits)
    return logps, [logits] if release(context.prepared.stack.trl)[:2] < DROPS_KL_LOGITS else []


def _logps(context: Context, logits: Tensor) -> Tensor:
    """Return the sum of the log-probabilities of each row's labels (get_batch_logps)."""
    context.set_scope("loss: ")
    tape, (rows, length, vocabulary) = context.tape, logits.shape
    shape = (rows, named(length - 1, "S - 1"))
    labels = tape.new(shape, "int64", "labels, shifted")
    shifted = ops.narrow(logits, (*shape, vocabulary))
    mask = tape.new(shape, "bool", "labeled")
    per_token = selected_log_probs(shifted, labels)
    masked = ops.mul(per_token, mask, "log-probabilities of labeled tokens")
    return ops.sum_over(masked, (rows,), "log-probabilities of rows")


def _rows(x: Tensor, size: int, name: str) -> Tensor:
    """Return a copy of some rows of a tensor, by a list of their numbers."""
    return indexing.index_list(x, (size, *x.shape[1:]), size, name)


def _loss(context: Context, policy: _Output, reference: _Output) -> Tensor:
    """Compute the loss `kto`. That of apo_zero_unpaired has fewer vectors."""
    kl = _divergence(context, policy.kl, reference.kl)
    ratios, losses, rewards = [], [], []
    for trained, other, is_negated in zip(policy.logps, reference.logps, (False, True), strict=True):
        ratio = ops.subtract(trained, other, "log-ratios")
        shifted = ratio if policy.kl is None else (ops.scale if is_negated else ops.shift)(ratio, "log-ratios and KL")
        values = ops.scale(shifted, "β · log-ratios")
        del shifted
        values = ops.unary(values, "sigmoid", saves="result")
        losses.append(values if is_negated and policy.kl is None else ops.scale(values, "1 - sigmoid"))
        rewards.append(context.tape.new(trained.shape, trained.dtype, "rewards"))
        ratios.append(ratio)
        del ratio, values
    weighted = [ops.scale(part, "losses, weighted") for part in losses]
    out = ops.cat(weighted, (context.batch,), "losses")
    del weighted, ratios, losses
    loss = ops.sum_over(out, (), "loss, mean")
    del kl, rewards
    return loss


def _divergence(context: Context, policy: Tensor | None, reference: Tensor | None) -> Tensor:
    """Return the estimate of the KL divergence, or the zero in its place."""
    tape = context.tape
    if policy is None:
        return tape.new((1,), "float32", "zero")
    differences = tape.new(policy.shape, policy.dtype, "log-ratios of the KL divergence")
    mean = tape.new((), policy.dtype, "KL divergence")
    del differences, reference
    gathered = tape.new((), policy.dtype, "KL divergence of all processes")
    kl = tape.new((), policy.dtype, "KL divergence, at least 0")
    del mean, gathered
    return kl
