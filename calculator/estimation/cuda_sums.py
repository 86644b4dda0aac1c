"""The sentences of an answer about sums that kernels compute in parts on CUDA.

These are sums of gradients over tokens and over equal ids, the mean over tokens, and an optimizer's means of a matrix.
A trace on the meta device only has their results. `most` finds the results in the trace. On a tape of its own, it
allocates what the kernels allocate.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.engine.cuda_embedding import PARTIAL_ROWS, add_rows_of_equal_ids
from calculator.engine.cuda_reductions import (
    PARTIAL_MEANS,
    PARTIAL_SUMS,
    SUMS_OF_TOKENS,
    sum_rows,
    sum_sequences,
    sum_to,
)
from calculator.engine.pooling import SUM_OF_TOKENS
from calculator.engine.products import EMBEDDING_GRADIENT
from calculator.estimation.cuda_difference import CudaDifference, allocated, kinds_of, largest
from calculator.resident.tensors import with_gradient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.engine.tape import Allocation, Tape
    from calculator.training_step.step import TrainingStep

#: The optimizers that compute means of squared gradients over the rows and the columns of a matrix.
_WITH_MEANS = ("adafactor", "galore_adafactor", "adalomo")


def _tokens(step: TrainingStep) -> int:
    """Return the positions of a micro-batch, in all sequences of a row."""
    prepared = step.resident.prepared
    training = prepared.training
    positions = training.sequence_length + prepared.method.virtual_tokens
    return training.micro_batch_size * prepared.sequences_per_row * positions


def _gradients(step: TrainingStep) -> Iterator[Allocation]:
    """Yield the kinds of gradients of parameters."""
    storages = step.run.storages
    for kind, key in enumerate(storages.kinds.keys):
        if key[3] == "gradients" or key[0].endswith(EMBEDDING_GRADIENT):
            yield storages.allocation(kind)


def _for_embedding(step: TrainingStep) -> int:
    """Return the bytes for the gradients of word embeddings."""
    model, tokens = step.resident.prepared.model, _tokens(step)
    if not model.has_word_embeddings:
        return 0
    names = f"{model.embedding.name}.weight: gradient", EMBEDDING_GRADIENT
    shapes = [shape for name, shape, *_ in _gradients(step) if name.endswith(names)]
    return max(
        [allocated(step, partial(add_rows_of_equal_ids, ids=tokens, weight=shape)) for shape in shapes], default=0
    )


def _embedding_sentence(step: TrainingStep) -> str:
    size = largest(step, PARTIAL_ROWS)
    summed = "The gradient of an embedding adds up the rows of equal ids, in a temporary tensor of"
    return f"{summed} up to {size:,} bytes here." if size else ""


def _for_sums(step: TrainingStep) -> int:
    """Return the bytes of the parts of a vector's gradient, whose inputs are those of all tokens."""
    vectors = {(elements(shape), dtype) for _, shape, dtype, *_ in _gradients(step) if len(shape) == 1}
    sizes = [
        allocated(step, partial(sum_rows, rows=_tokens(step), outputs=outputs, dtype=dtype))
        for outputs, dtype in vectors
    ]
    return max(sizes, default=0)


def _sums_sentence(step: TrainingStep) -> str:
    size = largest(step, PARTIAL_SUMS)
    summed = "The gradient of a norm or a bias is a sum over tokens, whose thread blocks have a buffer of"
    return f"{summed} up to {size:,} bytes here." if size else ""


def _for_pooling(step: TrainingStep) -> int:
    """Return the bytes of the parts of a sum of tokens."""
    tokens = step.resident.prepared.training.sequence_length + step.resident.prepared.method.virtual_tokens
    sizes = [
        allocated(step, partial(sum_sequences, shape=(shape[0], tokens, shape[1]), dtype=dtype))
        for _, shape, dtype, *_ in kinds_of(step, SUM_OF_TOKENS)
    ]
    return max(sizes, default=0)


def _pooling_sentence(step: TrainingStep) -> str:
    size = largest(step, SUMS_OF_TOKENS)
    return f"The mean over tokens is a sum whose thread blocks have a buffer of {size:,} bytes here." if size else ""


def _for_means(step: TrainingStep) -> int:
    """Return the bytes of the parts of an optimizer's means over the rows and over the columns of a matrix."""
    resident = step.resident
    if resident.optimizer.name not in _WITH_MEANS:
        return 0
    shapes = {(*map(int, tensor.shape),) for tensor in with_gradient(resident.tensors) if len(tensor.shape) > 1}
    return max([allocated(step, partial(_means, shape=shape)) for shape in shapes], default=0)


def _means(tape: Tape, shape: tuple[int, ...]) -> None:
    for kept in ((*shape[:-1], 1), (*shape[:-2], 1, shape[-1])):
        sum_to(tape, shape, kept, "float32", PARTIAL_MEANS)


def _means_sentence(step: TrainingStep) -> str:
    size = _for_means(step)
    return f"The optimizer's means of a matrix have a buffer of up to {size:,} bytes here." if size else ""


EMBEDDING = CudaDifference(most=_for_embedding, sentence=_embedding_sentence, phases=("backward",))

SUMS = CudaDifference(most=_for_sums, sentence=_sums_sentence, phases=("backward",))

POOLING = CudaDifference(most=_for_pooling, sentence=_pooling_sentence, phases=("forward",))

MEANS = CudaDifference(most=_for_means, sentence=_means_sentence, phases=("backward", "optimizer_step"))
