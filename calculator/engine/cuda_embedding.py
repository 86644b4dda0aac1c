"""The temporaries of the gradient of an embedding on CUDA.

Source: aten/src/ATen/native/cuda/Embedding.cu, embedding_dense_backward_cuda; EmbeddingBackwardKernel.cu,
embedding_backward_cuda_kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.engine.tape import Tape

#: The name of the tensor of the sums.
PARTIAL_ROWS = "partial sums of rows"

#: Up to this many ids, a kernel adds up the rows of equal ids without temporaries.
_UNSORTED = 3072
#: The rows that a warp adds up (NROWS_PER_THREAD).
_ROWS = 10


def add_rows_of_equal_ids(tape: Tape, ids: int, weight: Shape) -> None:
    """Allocate and free what sorts the ids and adds up the rows of each, while the weight's gradient exists.

    The workspaces of cub are freed before the sums are allocated, and are smaller.
    """
    if ids <= _UNSORTED:
        return
    segments = min(weight[0], ids)
    sums = ids // _ROWS + segments
    _sorted = [tape.scratch((ids,), "int64", name) for name in ("ids, sorted", "order of ids", "starts of segments")]
    _segment_sums = [tape.scratch((segments,), "int64", f"partial sums of segments{name}") for name in ("", ", added")]
    _counts = [tape.scratch((), "int64", f"number of {name}") for name in ("segments", "partial sums")]
    _starts = tape.scratch((sums,), "int64", "starts of partial sums")
    _sums = tape.scratch((sums, weight[1]), "float32", PARTIAL_ROWS)
