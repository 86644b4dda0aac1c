"""The log-probabilities and entropies of completions in GRPOTrainer of TRL 0.24, from the logits of the completions.

Source: trl/trainer/grpo_trainer.py, _get_per_token_logps_and_entropies, of TRL 0.24.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.engine import operations as ops
from calculator.engine.tape import SlicedTensor, Tensor
from calculator.layers.loss import logits_of
from calculator.layers.trl.selected_logps import selected_log_probs
from calculator.stack.verified import passes_problems
from calculator.trainers.transformers.loop import in_float32
from calculator.trainers.trl import generated
from calculator.trainers.trl.trainer import in_4_bits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.layers.context import Context
    from calculator.trainers.subject import Subject


#: The losses of later releases.
OTHER_LOSSES = ("cispo", "sapo", "luspo", "vespo")


def problems(prepared: Subject) -> Iterator[Problem]:
    """Yield what is not modeled of a generating trainer in an older release."""
    training, stack, model_type = prepared.training, prepared.stack, prepared.model.model_type
    yield from passes_problems(stack, model_type, prepared.method.name, training.sequence_length, window=None)
    for name, given in (("use_vllm", training.use_vllm), ("padding", training.padding)):
        if given:
            message = f"is not modeled with GRPOTrainer of TRL {stack.trl}: use false"
            yield Problem(loc=f"training.{name}", msg=message, input=True)
    if training.attention == "flash_attention_2":
        message = f"generate with it is not modeled with GRPOTrainer of TRL {stack.trl}: use sdpa or eager"
        yield Problem(loc="training.attention", msg=message, input=training.attention)
    if training.autocast == "bfloat16" and in_4_bits(prepared):
        message = (
            f"TRL {stack.trl} casts the output head of a 4-bit model to bfloat16, and generate runs outside autocast:"
            " most models then give the head float32, and fail. Leave it out"
        )
        yield Problem(loc="training.autocast", msg=message, input=training.autocast)
    if training.loss_type in OTHER_LOSSES:
        message = f"GRPOTrainer of TRL {stack.trl} has no {training.loss_type}: use dapo, grpo, bnpo or dr_grpo"
        yield Problem(loc="training.loss_type", msg=message, input=training.loss_type)


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
