"""Unsloth's output head and loss in one function, in chunks of tokens. The gradient is computed in the forward pass.

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

#: The maximum number of bytes of the float32 logits of a chunk. It is half of the free memory, but no more than this.
TARGET_BYTES = 4 << 30

#: The gradients that the function computes. If the head is frozen, it computes only the first.
_GRADIENTS = ("gradient of the hidden states", "gradient of the head")

#: The number of chunks is a multiple of this, unless there is one chunk.
CHUNKS = 4

#: The maximum number of tokens of a chunk at the low end, at which almost no memory is free.
FEWEST = 1


def chunk_size(tokens: int, vocab_size: int) -> int:
    """Return the tokens of a chunk if 8 GiB or more are free."""
    logits, target = tokens * vocab_size * 4, TARGET_BYTES
    if logits <= target:
        return tokens
    count = -(-logits // (CHUNKS * target)) * CHUNKS
    return named(-(-tokens // count), "chunk")


def fused_loss(context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the loss. There are no logits."""
    tape, weight = hidden_states.tape, context.bind(context.model.output).own["weight"]
    context.set_scope("loss: ")
    batch, length, width = hidden_states.shape
    labels = tape.new((batch, length), "int64", "labels, shifted")
    divisor = tape.new((), "float32", "labels in the step")
    x_grad = tape.new(hidden_states.shape, hidden_states.dtype, "gradient of the hidden states")
    grads = [x_grad]
    if weight.edge is not None:
        grads.append(tape.new(weight.shape, weight.dtype, f"{context.model.output.name}: gradient"))
    node = Node(tape, _fused_loss_back, (hidden_states.edge, weight.edge)[: len(grads)])
    loss = tape.new((), "float32", "loss", node)
    tokens, highest = named(batch * length, "B × S"), context.training.is_highest
    size = chunk_size(tokens, weight.shape[0]) if highest else FEWEST
    logits = tape.scratch((size, weight.shape[0]), hidden_states.dtype, "logits of a chunk")
    rows = [tape.scratch((size,), "float32", f"{name} of each token") for name in ("maximum", "sum", "loss")]
    grad = tape.scratch(logits.shape, logits.dtype, "gradient of a chunk's logits") if highest else logits
    del logits, rows
    x_chunk = tape.scratch((size, width), hidden_states.dtype, "gradient of a chunk")
    if weight.edge is not None:
        tape.scratch(weight.shape, weight.dtype, "gradient of the head, of a chunk")
    for gradient in grads:
        node.save(gradient)
    del labels, divisor, grad, x_chunk, grads
    return loss, []


def _fused_loss_back(node: Node, grad: Tensor) -> list[Tensor]:
    """Scale the gradients out of place."""
    scale = grad.tape.scratch((), "float32", "scale")
    named = zip(node.saved, _GRADIENTS[: len(node.saved)], strict=True)
    out = [grad.tape.new(saved.shape, saved.dtype, f"{name}, scaled") for saved, name in named]
    del scale
    return out
