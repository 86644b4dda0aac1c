"""torchtune's output head in chunks of each sequence, and its loss, which saves the log-probabilities of all chunks.

Source: torchtune/modules/transformer.py, chunked_output; torchtune/modules/loss/ce_chunked_output_loss.py; and
recipes/lora_finetune_single_device.py, _loss_step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import in_place
from calculator.engine import operations as ops
from calculator.layers.loss import log_softmax, nll_loss

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context

#: The number of chunks: CEWithChunkedOutputLoss, num_output_chunks.
CHUNKS = 8


def lengths(length: int) -> Iterator[int]:
    """Yield the number of tokens of each chunk of a sequence, as torch.chunk divides it."""
    size = named(-(-length // CHUNKS), "S / 8")
    left = length
    while left > size:
        yield size
        left -= size
    yield left


def chunked_output(context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the logits of each chunk.

    The first chunk also stands in for the loss, which the recipe computes later.
    """
    batch, length, width = hidden_states.shape
    head = context.bind(context.model.output)
    chunks = ops.split(hidden_states, [(batch, tokens, width) for tokens in lengths(length)])
    logits = [head(_rows(chunk)) for chunk in chunks]
    return logits[0], logits


def _rows(chunk: Tensor) -> Tensor:
    """Return a chunk of the hidden states as F.linear reads it. Rows of several tokens are copied."""
    return ops.contiguous(chunk, "chunk of the hidden states") if min(chunk.shape[:2]) > 1 else chunk


def loss_of_chunks(context: Context, logits: list[Tensor], shifted: Tensor) -> Tensor:
    """Return the sum of the chunks' losses over the number of labels. `shifted` are the shifted labels."""
    tape, batch = context.tape, context.batch
    vocabulary = logits[0].shape[2]
    total_elements = tape.new((), "int64", "labels")
    labels = [_labels(context, chunk.shape[1]) if min(batch, chunk.shape[1]) > 1 else shifted for chunk in logits]
    total = None
    for position, (chunk, rows) in enumerate(zip(logits, _numbers_of_rows(batch, logits), strict=True)):
        wide = ops.cast(ops.view(chunk, (rows, vocabulary)), "float32", "logits of a chunk in float32")
        losses = nll_loss(log_softmax(wide), labels[position])
        del wide
        total = ops.shift(losses, "loss, summed") if total is None else in_place.add_(total, losses)
        del losses
    assert total is not None
    return ops.mul(total, total_elements, "loss, divided")


def _numbers_of_rows(batch: int, logits: list[Tensor]) -> list[int]:
    """Return the number of rows of each chunk. All but the last have the same."""
    rows, last = (named(batch * chunk.shape[1], "B × S / 8") for chunk in (logits[0], logits[-1]))
    return [*[rows] * (len(logits) - 1), last]


def _labels(context: Context, tokens: int) -> Tensor:
    return context.tape.new((named(context.batch * tokens, "B × S / 8"),), "int64", "labels of a chunk")
