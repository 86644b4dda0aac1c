"""Cut Cross-Entropy: the output head and the loss without logits. Their gradients are computed in the backward pass.

Source: cut_cross_entropy/cce.py, cce_lse_forward.py, cce_backward.py, indexed_dot.py, utils.py and
transformers/utils.py, apply_lce, of axolotl-ai-cloud/ml-cross-entropy at 5f0c7a7, a fork of apple/ml-cross-entropy
whose function makes no copies under autocast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.common.errors import refusal
from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.layers.trl.labels import labeled_tokens

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context

#: The number of tokens, or of vocabulary entries, that share a lock. The number of columns of the hidden states that
#: share one.
ROWS_OF_A_LOCK = 128
COLUMNS_OF_A_LOCK = 64


#: The dtypes in which the kernels of the backward pass can read hidden states and head.
HALF = ("bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class CutCrossEntropy:
    """linear_cross_entropy, which replaces the output head and its loss."""

    #: The number of labels in a whole step, by which the sum is divided.
    num_items: Tensor
    #: Whether the patch scales the hidden states instead of the logits, which the family scales.
    scaled: bool = False

    def __call__(self, context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the loss. There are no logits."""
        parameters = context.bind(context.model.output).own
        weight, bias = parameters["weight"], parameters.get("bias")
        context.set_scope("loss: ")
        tokens = named(hidden_states.shape[0] * hidden_states.shape[1], "B × S")
        capped = context.config.get("final_logit_softcapping") is not None
        x = ops.scale(hidden_states, "hidden states, scaled") if self.scaled else hidden_states
        if (x.dtype, weight.dtype) == ("float32", "bfloat16"):
            x = ops.cast(x, "bfloat16", "hidden states in bfloat16")
        _check(x, weight)
        labeled = _labeled(context, hidden_states.shape)
        flat = ops.view(x, (tokens, x.shape[2]))
        del x
        kept = [labeled, *_lengthened_labels(context)]
        loss = _linear_cross_entropy(flat, weight, bias, kept, capped=capped)
        del flat, labeled, kept
        return ops.mul(loss, self.num_items, "loss, divided"), []


def _check(x: Tensor, weight: Tensor) -> None:
    """Refuse inputs that the assertions of the backward pass exclude."""
    if x.dtype not in HALF or weight.dtype not in HALF:
        read = x.dtype if weight.dtype in HALF else weight.dtype
        message = f"reads hidden states and output head in bfloat16 or float16, and here has {read}: use false"
        raise refusal("training.cut_cross_entropy", message, True)


def _lengthened_labels(context: Context) -> list[Tensor]:
    """Return the labels if PEFT lengthens them by a prompt. Other labels stay with the batch."""
    label_type = ((context.batch, context.length), "int64")
    return [local for local in context.forward_locals if (local.shape, local.dtype) == label_type]


def _labeled(context: Context, shape: Shape) -> Tensor:
    """Return the positions of labeled tokens (_build_flat_valids)."""
    tape, count = context.tape, labeled_tokens(context)
    is_labeled = tape.scratch((shape[0], named(shape[1] - 1, "(S - 1)")), "bool", "labeled")
    pairs = tape.scratch((count, 2), "int64", "indices of labeled tokens")
    del is_labeled
    narrow = tape.scratch((count, 2), "int32", "indices of labeled tokens in int32")
    del pairs
    positions = tape.new((count,), "int64", "positions of labeled tokens")
    del narrow
    return positions


def _linear_cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor | None, kept: list[Tensor], *, capped: bool
) -> Tensor:
    """Return the sum of the losses of x: (tokens, hidden_size), with weight: (vocab_size, hidden_size).

    kept: the tensors that live as long as the loss's graph, the positions of labeled tokens first.
    """
    tape, labeled = x.tape, kept[0]
    needs_grad = bool(x.edge or weight.edge)
    edges = (x.edge, weight.edge, bias.edge if bias is not None else None)
    node = Node(tape, _linear_cross_entropy_back, edges, kept) if any(edges) else None
    (count,) = labeled.shape
    log_sum_exp = tape.new((count,), "float32", "log-sum-exp")
    locks = tape.scratch((_partial_sums(count, ROWS_OF_A_LOCK),), "int32", "locks")
    average = tape.new((weight.shape[0],), "float32", "mean logit of each token") if needs_grad else None
    del locks
    losses = tape.scratch((count,), "float32", "negative logits of the labels")
    if capped:
        losses = tape.scratch((count,), "float32", "negative logits of the labels, capped")
    if node is not None:
        for saved in (x, weight, log_sum_exp, labeled, *(tensor for tensor in (average, bias) if tensor is not None)):
            node.save(saved)
    loss = tape.new((), "float32", "loss, summed", node)
    del losses
    return loss


def _partial_sums(count: int, size: int) -> int:
    return named(-(-count // size), f"⌈{count} / {size}⌉")


def _linear_cross_entropy_back(node: Node, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of hidden states, head and bias.

    They are computed from blocks of logits that are not stored in a tensor.
    """
    x, weight, _, labeled = node.saved[:4]
    tape, columns = grad.tape, _partial_sums(x.shape[1], COLUMNS_OF_A_LOCK)
    order = _order(weight) if node.edges[0] or node.edges[1] else None
    x_grad = tape.new(x.shape, x.dtype, "gradient of the hidden states") if node.edges[0] else None
    weight_grad = tape.new(weight.shape, weight.dtype, "gradient of the head") if node.edges[1] else None
    bias_grad = tape.new((weight.shape[0],), "float32", "gradient of the head's bias") if node.edges[2] else None
    locks = [
        tape.scratch((_partial_sums(rows, ROWS_OF_A_LOCK), columns), "int32", "locks")
        for rows, edge in zip((labeled.shape[0], weight.shape[0]), node.edges[:2], strict=True)
        if edge
    ]
    if bias_grad is not None:
        bias_grad = ops.cast(bias_grad, node.saved[-1].dtype, "gradient of the head's bias, cast")
    del locks, order
    return x_grad, weight_grad, bias_grad


def _order(weight: Tensor) -> Tensor:
    """Return the order of the vocabulary by mean logit (sort_logit_avg)."""
    tape, entries = weight.tape, (weight.shape[0],)
    values, indices = (
        tape.scratch(entries, "float32", "mean logits, sorted"),
        tape.scratch(entries, "int64", "order of the mean logits"),
    )
    del values
    order = tape.scratch(entries, "int32", "order of the vocabulary")
    del indices
    return order
