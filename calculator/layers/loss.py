"""The loss of a causal language model, from all logits.

Source: transformers/loss/loss_utils.py, ForCausalLMLoss and fixed_cross_entropy; torch's cross_entropy as log_softmax
and nll_loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import operations as ops
from calculator.engine.autocast import cast_to, reduction_dtype
from calculator.engine.autograd import Node

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.decoder_forward import DecoderForward

    #: Takes the decoder's output (batch, sequence, hidden_size), and returns the loss and the other outputs of the
    #: model.
    LossHead = Callable[[Context, Tensor], tuple[Tensor, list[Tensor]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FullLogits:
    """The model's output head and its loss, from the logits of every token."""

    #: The number of labels in a whole step, by which the sum is divided. None for the mean over the micro-batch.
    num_items: Tensor | None = None

    def __call__(self, context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the loss, and the logits, which the model's output refers to."""
        logits = logits_of(context, context.forward, hidden_states)
        if context.older & {"reassigned_logits", "logits_reassigned_by_mistral"}:
            logits = float32_logits(context, logits)
        return causal_lm_loss(context, logits, self.num_items), [logits]


def logits_of(context: Context, forward: DecoderForward, hidden_states: Tensor) -> Tensor:
    """Return the logits of every token, from the model's output head."""
    head = context.hooks.module("head")
    output = context.bind(context.model.output)
    # The calls are nested, because a call may free its argument before it returns.
    return forward.logits(context, head.after(output(head.before(forward.head_input(context, hidden_states)))))


def float32_logits(context: Context, logits: Tensor) -> Tensor:
    """Return logits in float32."""
    context.set_scope("loss: ")
    return ops.cast(logits, "float32", "logits in float32")


def causal_lm_loss(context: Context, logits: Tensor, num_items: Tensor | None = None) -> Tensor:
    """Return the mean negative log-likelihood of shifted labels, or their sum over `num_items`.

    It is in float32, except for models whose older code computes it in the dtype of the logits.

    logits: (batch, sequence, vocab_size).
    """
    if "logits_in_their_own_dtype" not in context.older:
        logits = float32_logits(context, logits)
    if "shifted_logits" in context.older:
        return _loss_of_shifted_logits(context, logits, num_items)
    shifted, labels = shifted_labels(context, *logits.shape[:2])
    rows = named(logits.shape[0] * logits.shape[1], "B × S")
    flat = ops.view(logits, (rows, logits.shape[2]))
    loss = nll_loss(log_softmax(flat), shifted)
    if num_items is not None:
        loss = ops.mul(loss, num_items, "loss, divided")
    del labels
    return loss


def shifted_labels(context: Context, batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Return the labels of the next tokens, and the padded labels.

    In a batch of one, the former are a view of the latter.
    """
    labels = context.tape.new((batch, length + 1), "int64", "labels, padded")
    shifted = labels if batch == 1 else context.tape.new((batch, length), "int64", "labels, shifted")
    return shifted, labels


def _loss_of_shifted_logits(context: Context, logits: Tensor, num_items: Tensor | None) -> Tensor:
    """Return the loss of the logits without each sequence's last position.

    If they are not contiguous, they are copied. The copy is alive while the sum is divided by `num_items`.
    """
    batch, length, vocabulary = logits.shape
    shorter = named(length - 1, "(S - 1)")
    kept = ops.narrow(logits, (batch, shorter, vocabulary))
    if batch > 1:
        kept = ops.contiguous(kept, "logits, shifted")
    labels = context.tape.new((batch, shorter), "int64", "labels, shifted") if batch > 1 else None
    flat = ops.view(kept, (named(batch * shorter, "B × (S - 1)"), vocabulary))
    loss = cross_entropy(flat, labels)
    return loss if num_items is None else ops.mul(loss, num_items, "loss, divided")


def log_softmax(x: Tensor, dtype: DType | None = None) -> Tensor:
    """Return torch.nn.functional.log_softmax over the last dimension, which is saved.

    Without a dtype, it is computed in the dtype of x, or in float32 under autocast.
    """
    dtype = dtype or reduction_dtype(x)
    if (x.dtype, dtype) != ("float16", "float32"):
        x = ops.cast(x, dtype, f"logits in {dtype}")
    node = Node(x.tape, _log_softmax_back, (x.edge,)) if x.edge else None
    out = x.tape.new(x.shape, dtype, "log-probabilities", node)
    if node is not None:
        node.save(out)
    return out


def _log_softmax_back(_: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(grad.shape, grad.dtype, "gradient of the logits"),)


def nll_loss(x: Tensor, target: Tensor | None) -> Tensor:
    """Return torch.nn.functional.nll_loss of log-probabilities, summed or averaged."""
    node = Node(x.tape, _nll_loss_back, (x.edge,)) if x.edge else None
    if node is not None:
        node.save(x)
        if target is not None:
            node.save(target)
    loss = x.tape.new((), x.dtype, "loss", node)
    total_weight = x.tape.new((), x.dtype, "total weight")
    if node is not None:
        node.save(total_weight)
    return loss


def _nll_loss_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    log_probabilities = node.saved[0]
    return (grad.tape.new(log_probabilities.shape, grad.dtype, "gradient of the log-probabilities"),)


def cross_entropy(scores: Tensor, labels: Tensor | None) -> Tensor:
    """Return torch.nn.functional.cross_entropy.

    Its log_softmax keeps its dtype under autocast, and its nll_loss does not.

    Source: aten/src/ATen/native/LossNLL.cpp, cross_entropy_loss; torch/include/ATen/autocast_mode.h.
    """
    log_probabilities = log_softmax(scores, scores.dtype)
    if scores.tape.autocast is not None:
        log_probabilities = cast_to(log_probabilities, "float32", "log-probabilities")
    return nll_loss(log_probabilities, labels)
