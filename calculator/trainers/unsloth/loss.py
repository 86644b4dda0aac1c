"""Unsloth's output head and loss in one function, by chunks of tokens, with the gradient in the forward pass.

torch.compile turns a chunk into a product, kernels that write the gradient over the logits, and a second product.

Source: unsloth_zoo/fused_losses/cross_entropy_loss.py, UnslothFusedLoss, get_chunk_size and _get_chunk_multiplier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine.autograd import Node

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context

#: The most bytes that the logits of a chunk have in float32: half of the free memory, but no more than this.
TARGET_BYTES = 4 << 30

#: The number of chunks is a multiple of this, but for one chunk.
CHUNKS = 4

#: The most tokens of a chunk at the low end, where hardly any memory is free.
FEWEST = 1


def chunk_size(tokens: int, vocab_size: int) -> int:
    """Return the tokens of a chunk where 8 GiB or more are free."""
    logits, target = tokens * vocab_size * 4, TARGET_BYTES
    if logits <= target:
        return tokens
    count = -(-logits // (CHUNKS * target)) * CHUNKS
    return named(-(-tokens // count), "chunk")


def fused_loss(context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the loss; there are no logits."""
    tape, weight = hidden_states.tape, context.bind(context.model.output).own["weight"]
    context.set_scope("loss: ")
    batch, length, width = hidden_states.shape
    labels = tape.new((batch, length), "int64", "labels, shifted")
    divisor = tape.new((), "float32", "labels in the step")
    x_grad = tape.new(hidden_states.shape, hidden_states.dtype, "gradient of the hidden states")
    node = Node(tape, _fused_loss_back, (hidden_states.edge,))
    loss = tape.new((), "float32", "loss", node)
    tokens, highest = named(batch * length, "B × S"), context.training.is_highest
    size = chunk_size(tokens, weight.shape[0]) if highest else FEWEST
    logits = tape.scratch((size, weight.shape[0]), hidden_states.dtype, "logits of a chunk")
    rows = [tape.scratch((size,), "float32", f"{name} of each token") for name in ("maximum", "sum", "loss")]
    grad = tape.scratch(logits.shape, logits.dtype, "gradient of a chunk's logits") if highest else logits
    del logits, rows
    tape.scratch((size, width), hidden_states.dtype, "gradient of a chunk")
    node.save(x_grad)
    del labels, divisor, grad
    return loss, []


def _fused_loss_back(node: Node, grad: Tensor) -> list[Tensor]:
    """Scale the gradient out of place."""
    (x_grad,) = node.saved
    scale = grad.tape.scratch((), "float32", "scale")
    out = grad.tape.new(x_grad.shape, x_grad.dtype, "gradient of the hidden states, scaled")
    del scale
    return [out]
