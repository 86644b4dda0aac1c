"""The micro-batch of KTOTrainer in TRL 0.15 to 0.24.

Source: trl/trainer/kto_trainer.py, _process_tokens, forward, get_batch_logps, _compute_kl_logps and
get_batch_loss_metrics, of TRL 0.15.2 to 0.24.0.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import named
from calculator.engine import autocast, indexing
from calculator.engine import operations as ops
from calculator.layers.trl.selected_logps import selected_log_probs
from calculator.trainers.trl import qlora
from calculator.trainers.trl.all_logits import converted

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.trainers.loop import Passes

#: The tensors of a batch with precomputed log-probabilities of the reference.
REFERENCES = ("reference_logps", "reference_KL_logps")


class _Output(NamedTuple):
    """The log-probabilities of the rows, and copies of the logits of desirable and of undesirable rows."""

    logps: list[Tensor]
    logits: list[Tensor]
    kl: Tensor | None


def fetched(training: Training, *, estimates_kl: bool) -> list[tuple[str, Shape, DType]]:
    """Return ids and masks of prompts and answers, ids, masks and labels of both together, and the same for the KL."""
    rows, length = named(training.micro_batch_size, "B"), named(training.sequence_length, "S")
    completion = training.sequence_length - 1
    if training.completion_tokens is not None:
        completion = training.completion_tokens // training.micro_batch_size
    prompt, answer = named(training.sequence_length - completion, "prompt"), named(completion - 1, "answer")
    joined = ("completion_input_ids", "completion_attention_mask", "completion_labels")
    of_prompt = ("prompt_input_ids", "prompt_attention_mask")
    tensors: list[tuple[str, Shape, DType]] = []
    tensors += [(name, (rows, prompt), "int64") for name in of_prompt]
    tensors += [(name, (rows, answer), "int64") for name in ("answer_input_ids", "answer_attention_mask")]
    tensors += [(name, (rows, length), "int64") for name in joined]
    if estimates_kl:
        tensors += [(f"KL_{name}", (rows, prompt), "int64") for name in of_prompt]
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
        counts = [tape.new((), "int64", f"{name} rows") for name in ("desirable", "undesirable")]
        policy = _forward(context, forward, estimates_kl=estimates_kl, reference=False)
        reference = _reference(context, forward, policy, estimates_kl=estimates_kl)
        out = _loss(policy.logps, reference.logps)
        del counts, policy, reference
    out = ops.scale(out, "loss / gradient_accumulation_steps")
    tape.component = "activations"
    return out


def _reference(context: Context, forward: Passes, policy: _Output, *, estimates_kl: bool) -> _Output:
    """Return the reference's output, with the logits of the undesirable rows alone. Precomputed ones have no logits."""
    if context.training.precompute_ref_log_probs:
        logps = [context.tape.new(each.shape, "float32", "reference's log-probabilities") for each in policy.logps]
        return _Output(logps, [], None)
    output = _forward(context, forward, estimates_kl=estimates_kl, reference=True)
    return _Output(output.logps, output.logits[1:], output.kl)


def _forward(context: Context, forward: Passes, *, estimates_kl: bool, reference: bool) -> _Output:
    """Run the model on the batch for the KL divergence, and then on the batch itself."""
    tape, training = context.tape, context.training
    kl = _kl(context, forward, reference=reference) if estimates_kl else None
    tape.component = "activations"
    context.set_scope("")
    with autocast.region(tape, training.autocast):
        passes = forward.without_graph("reference: ", reference=True) if reference else forward()
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
    del outputs, logits, sums
    return _Output(logps, copies, kl)


def _kl(context: Context, forward: Passes, *, reference: bool) -> Tensor:
    """Return the log-probabilities of the batch for the KL divergence. Of the model's outputs, the logits are kept."""
    tape, dtype = context.tape, context.training.autocast
    name = "KL, reference: " if reference else "KL: "
    with autocast.region(tape, dtype):
        passes = forward.without_graph(name, reference=reference)
    outputs = converted(context, passes[1])
    del passes
    logits = outputs[0]
    del outputs
    tape.component = "logits_and_loss"
    return _logps(context, logits)


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
    return indexing.index_list(x, (size, *x.shape[1:]), name)


def _loss(policy: list[Tensor], reference: list[Tensor]) -> Tensor:
    """Compute the loss `kto`, which represents every loss."""
    losses = []
    for trained, other in zip(policy, reference, strict=True):
        ratios = ops.subtract(trained, other, "log-ratios")
        values = ops.unary(ops.scale(ratios, "β · log-ratios"), "sigmoid", saves="result")
        losses.append(ops.scale(values, "loss of each row"))
    rows = sum(int(each.shape[0]) for each in losses)
    return ops.sum_over(ops.cat(losses, (rows,), "losses"), (), "loss, mean")
