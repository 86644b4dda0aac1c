"""Liger's cross-entropy of all logits: one kernel, which writes their gradient over them.

Source: liger_kernel/ops/cross_entropy.py of Liger 0.8.5, LigerCrossEntropyFunction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.engine.tape import Tensor
from calculator.layers.loss import float32_logits, shifted_labels

if TYPE_CHECKING:
    from calculator.layers.context import Context


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEntropyOfLogits:
    """The model's output head. Liger's kernel replaces torch.nn.functional.cross_entropy."""

    #: The number of labels in a whole step, by which the sum is divided.
    num_items: Tensor

    def __call__(self, context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the loss, and the logits, which the model's output refers to."""
        head = context.hooks.module("head")
        output = context.bind(context.model.output)
        logits = context.forward.logits(context, head.after(output(head.before(hidden_states))))
        in_float32 = float32_logits(context, logits)
        shifted, labels = shifted_labels(context, *logits.shape[:2])
        rows = named(logits.shape[0] * logits.shape[1], "B × S")
        loss = _cross_entropy(ops.view(in_float32, (rows, logits.shape[2])))
        del in_float32
        loss = ops.mul(loss, self.num_items, "loss, divided")
        del shifted, labels
        return loss, [logits]


def _cross_entropy(x: Tensor) -> Tensor:
    """Return the sum of the losses of x: (tokens, vocab_size)."""
    tape, rows = x.tape, x.shape[:1]
    node = Node(tape, _cross_entropy_back, (x.edge,)) if x.edge else None
    losses = tape.new(rows, "float32", "loss of each token")
    mask = tape.new(rows, "bool", "labeled")
    targets = tape.scratch(rows, "int64", "labels · labeled")
    del targets
    if node is not None:
        node.save(x.detach())
    loss = tape.new((), "float32", "loss", node)
    del losses, mask
    return loss


def _cross_entropy_back(node: Node, grad: Tensor) -> tuple[Tensor]:  # noqa: ARG001  it was computed in the forward pass
    """Return the gradient, which has overwritten the logits."""
    (saved,) = node.saved
    out = Tensor(saved.tape, saved.storage, saved.shape, saved.dtype, None)
    out.viewed = True
    return (out,)
