"""Liger's fused linear cross-entropy: logits in chunks of tokens, and the gradients in the forward pass.

Source: liger_kernel/ops/fused_linear_cross_entropy.py of Liger 0.8.5; liger_kernel/transformers/model/loss_utils.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.engine.tape import Tensor
from calculator.layers.loss import shifted_labels

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.layers.context import Context


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedLinearCrossEntropy:
    """The output head and the loss in one function, which never holds the logits of all tokens."""

    #: The number of labels in a whole step, by which the sum is divided.
    num_items: Tensor

    def __call__(self, context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the loss. There are no logits."""
        unit = context.hooks.module("head")
        head, hidden_states = unit.read(context.bind(context.model.output), hidden_states)
        weight = head["weight"]
        context.set_scope("loss: ")
        shifted, labels = shifted_labels(context, *hidden_states.shape[:2])
        tokens = named(hidden_states.shape[0] * hidden_states.shape[1], "B × S")
        loss = _fused(ops.view(hidden_states, (tokens, hidden_states.shape[2])), weight, hidden_states.shape)
        loss = ops.mul(loss, self.num_items, "loss, divided")
        del shifted, labels
        return loss, []


def chunk_size(tokens: int, vocab_size: int, hidden_size: int) -> int:
    """Return the tokens of a chunk: a power of two, so that its logits are about as large as the hidden states."""
    wanted = -(-tokens // -(-vocab_size // hidden_size))
    size = 1
    while size < wanted:
        size *= 2
    return named(size, "chunk") if size < tokens else tokens


def _first_two(tokens: int, size: int) -> tuple[int, ...]:
    """Return the sizes of the first chunk and of the next one, which finds what autocast cached in the first."""
    if size == tokens:
        return (tokens,)
    rest = tokens - size
    return size, min(size, rest)


def _fused(x: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    """Return the sum of the losses of x: (tokens, hidden_size), with weight: (vocab_size, hidden_size).

    x is a view of `shape`. The gradient of x has the shape that the layers' gradients have.
    """
    tape, (tokens, width), vocab_size = x.tape, x.shape, weight.shape[0]
    whole = tape.new(shape, x.dtype, "gradient of the hidden states")
    x_grad = Tensor(tape, whole.storage, x.shape, x.dtype, None)
    del whole
    weight_grad = tape.new(weight.shape, weight.dtype, "gradient of the head") if x.edge and weight.edge else None
    losses = tape.new((tokens,), "float32", "loss of each token")
    labeled = tape.new((tokens,), "bool", "labeled")
    for size in _first_two(tokens, chunk_size(tokens, vocab_size, width)):
        _chunk(x, weight, size, trains_head=weight_grad is not None)
    node = Node(tape, _fused_back, (x.edge, weight.edge)) if x.edge or weight.edge else None
    loss = tape.new((), "float32", "loss, summed", node)
    if node is not None:
        node.save(x_grad)
        if weight_grad is not None:
            node.save(weight_grad)
    del losses, labeled
    return loss


def _chunk(x: Tensor, weight: Tensor, size: int, *, trains_head: bool) -> None:
    """Run one chunk. Its products are written to buffers if no cast is needed."""
    tape, region = x.tape, x.tape.autocast
    dtype: DType = x.dtype if region is None else region.dtype
    logits_shape, rows = (size, weight.shape[0]), (size, x.shape[1])
    if x.dtype == weight.dtype == dtype:
        logits = tape.scratch(logits_shape, dtype, "logits of a chunk")
    else:
        copies = [_copied(weight.detach(), weight.shape, dtype, "head"), _copied(x, rows, dtype, "chunk")]
        logits = tape.scratch(logits_shape, dtype, "logits of a chunk")
        del copies
        if x.edge:
            whole = weight if region is None else region.cached_cast(weight, "head", grad_enabled=False)
            product = tape.scratch(rows, dtype, "gradient of a chunk")
            del whole, product
    if trains_head and weight.dtype == "float32" and dtype != "float32":
        _copied(x, rows, dtype, "chunk")
    elif trains_head and weight.dtype == "float32":
        tape.scratch(weight.shape, "float32", "gradient of the head in a chunk")
    del logits


def _copied(like: Tensor, shape: tuple[int, ...], dtype: DType, name: str) -> Tensor | None:
    return None if like.dtype == dtype else like.tape.scratch(shape, dtype, f"{name} in {dtype}")


def _fused_back(node: Node, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Multiply the gradients from the forward pass in place."""
    one = grad.tape.scratch((), "float32", "one")
    x_grad, *weight_grads = node.saved
    del one
    return (x_grad if node.edges[0] else None), (weight_grads[0] if weight_grads else None)
