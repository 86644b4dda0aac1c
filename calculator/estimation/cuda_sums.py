"""What an answer says about gradients that kernels sum in parts on CUDA: over tokens, and over equal ids.

A trace on the meta device has the results alone. `most` finds the gradients in it, and allocates on a tape of its own
what their kernels do.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.devices.multiprocessors import multiprocessors_of
from calculator.devices.verdict import card_of
from calculator.engine.cuda_embedding import PARTIAL_ROWS, add_rows_of_equal_ids
from calculator.engine.cuda_reductions import PARTIAL_SUMS, sum_rows
from calculator.engine.products import EMBEDDING_GRADIENT
from calculator.engine.tape import Tape
from calculator.estimation.cuda_difference import CudaDifference, largest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.engine.tape import Allocation
    from calculator.training_step.step import TrainingStep


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


def _allocated(step: TrainingStep, allocate: Callable[[Tape], None]) -> int:
    """Return the bytes that a kernel allocates at once on the GPU of a step."""
    tape = Tape(cuda=True)
    tape.multiprocessors = multiprocessors_of(card_of(step.resident.prepared.device))
    allocate(tape)
    return sum([size for *_, size in tape.rows])


def _for_embedding(step: TrainingStep) -> int:
    """Return the bytes for the gradients of word embeddings."""
    model, tokens = step.resident.prepared.model, _tokens(step)
    if not model.has_word_embeddings:
        return 0
    names = f"{model.embedding.name}.weight: gradient", EMBEDDING_GRADIENT
    shapes = [shape for name, shape, *_ in _gradients(step) if name.endswith(names)]
    return max(
        [_allocated(step, partial(add_rows_of_equal_ids, ids=tokens, weight=shape)) for shape in shapes], default=0
    )


def _embedding_sentence(step: TrainingStep) -> str:
    size = largest(step, PARTIAL_ROWS)
    summed = "The gradient of an embedding adds up the rows of equal ids, in a temporary tensor of"
    return f"{summed} up to {size:,} bytes here." if size else ""


def _for_sums(step: TrainingStep) -> int:
    """Return the bytes of the parts of a vector's gradient, whose inputs are those of all tokens."""
    vectors = {(elements(shape), dtype) for _, shape, dtype, *_ in _gradients(step) if len(shape) == 1}
    of_each = [
        _allocated(step, partial(sum_rows, rows=_tokens(step), outputs=outputs, dtype=dtype))
        for outputs, dtype in vectors
    ]
    return max(of_each, default=0)


def _sums_sentence(step: TrainingStep) -> str:
    size = largest(step, PARTIAL_SUMS)
    summed = "The gradient of a norm or a bias is a sum over tokens, whose thread blocks have a buffer of"
    return f"{summed} up to {size:,} bytes here." if size else ""


EMBEDDING = CudaDifference(most=_for_embedding, sentence=_embedding_sentence, phases=("backward",))

SUMS = CudaDifference(most=_for_sums, sentence=_sums_sentence, phases=("backward",))
