"""The buffers of reductions on CUDA whose inputs are split over thread blocks.

Each block writes the part of a sum that it has computed to a buffer, and the last one adds the parts up. A semaphore
for each column of blocks counts those that are done.

Source: aten/src/ATen/native/cuda/Reduce.cuh, setReduceConfig and gpu_reduce_kernel.
"""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import ceil_div, elements
from calculator.common.dtype import ITEMSIZE
from calculator.engine.symbolic_sizes import SymInt

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.devices.multiprocessors import Multiprocessors
    from calculator.engine.tape import Tape

#: The name of the buffer of a split sum.
PARTIAL_SUMS = "partial sums of thread blocks"
#: The names of the buffers of a split sum of tokens, and of a split mean of a matrix.
SUMS_OF_TOKENS, PARTIAL_MEANS = "partial sums of tokens", "partial means of a matrix"

#: Threads of a block and of a warp, and the values that a thread adds up at least and at most.
_THREADS, _WARP = 512, 32
_LEAST_VALUES, _MOST_VALUES = 16, 256
#: A contiguous input of this many values or more is loaded in vectors. Outputs are vectors of up to 4 values.
_VECTORIZED, _OUTPUT_VECTOR = 128, 4
#: The bytes up to which an input is reduced at once. Source: aten/src/ATen/TensorIterator.cpp, can_use_32bit_indexing.
_INDEXED = 1 << 31


class Buffers(NamedTuple):
    """The partial results of the blocks, in float32 values, and the semaphores. Both are 0 if no sum is split."""

    partial: int = 0
    semaphores: int = 0


class Layout(NamedTuple):
    """The inputs of each output of a reduction, and their memory layout.

    `is_inner`: whether inputs of one output follow one another. `groups`: the number of dimensions that are reduced.
    `width`: the number of outputs that follow one another.
    """

    inputs: int
    outputs: int
    width: int
    is_inner: bool = False
    groups: int = 1


def buffers(layout: Layout, itemsize: int, multiprocessors: Multiprocessors) -> Buffers:
    """Return the buffers of a sum in float32."""
    inputs, outputs, width, is_inner, groups = layout
    vector = 1 if is_inner else _vector(width)
    first, second = (inputs, outputs) if is_inner else (outputs // vector, inputs)
    if is_inner and groups == 1 and inputs >= _VECTORIZED:
        first //= 16 // max(2, min(itemsize, 4))
    threads = _THREADS // vector
    across, down = _block(first, second, threads)
    step_input, step_output = (across, 1) if is_inner else (1, across)
    splits = ceil_div(inputs, step_input) >= min(down * _LEAST_VALUES, _MOST_VALUES)
    if splits:
        step_input *= down
    else:
        step_output *= down
    columns, values = ceil_div(outputs // vector, step_output), ceil_div(inputs, step_input)
    blocks = multiprocessors.count * (multiprocessors.threads // (across * down))
    if not splits or values < _MOST_VALUES or columns > blocks:
        return Buffers()
    rows = max(min(ceil_div(blocks, columns), ceil_div(values, _LEAST_VALUES)), ceil_div(values, _MOST_VALUES))
    if rows == 1:
        return Buffers()
    return Buffers(outputs * rows * (1 if is_inner else across * vector), columns)


def _vector(width: int) -> int:
    """Return how many outputs a thread computes (get_output_vec_size)."""
    vector = _OUTPUT_VECTOR
    while width % vector:
        vector //= 2
    return vector


def _block(first: int, second: int, threads: int) -> tuple[int, int]:
    """Return the dimensions of a block (set_block_dimension)."""
    most_across, most_down = (_power_of_two(min(size, threads)) for size in (first, second))
    down = min(most_down, threads // min(most_across, _WARP))
    return min(most_across, threads // down), down


def _power_of_two(size: int) -> int:
    """Return the largest power of two that is not larger than a size, or 1."""
    return 1 << (max(size, 1).bit_length() - 1)


def sum_to(tape: Tape, given: Shape, shape: Shape, dtype: DType, name: str = PARTIAL_SUMS) -> None:
    """Allocate and free the buffers of a contiguous tensor's sum to a shape (at::sum_to). The sum itself exists."""
    leading = given[: len(given) - len(shape)]
    if shape and given[len(leading) :] == shape:
        sum_rows(tape, elements(leading), elements(shape), dtype)
        return
    sizes = [*map(int, given)]
    kept = [1] * len(leading) + [*map(int, shape)]
    _allocate(tape, *_buffers(_layout(sizes, kept), ITEMSIZE[dtype], tape.multiprocessors), name)


def sum_rows(tape: Tape, rows: int, outputs: int, dtype: DType) -> None:
    """Allocate and free the buffers of a sum over the rows of a matrix. Its sizes may be symbolic."""
    row_functions = _row_functions(ITEMSIZE[dtype], tape.multiprocessors)
    partial, semaphores = (_applied(function, rows, outputs) for function in row_functions)
    parts = _applied(_parts(ITEMSIZE[dtype]), rows, outputs)
    # A sum in half precision is accumulated in float32 over the parts.
    _accumulated = tape.scratch((outputs,), "float32", "sum in float32") if parts > 1 and dtype != "float32" else None
    _allocate(tape, partial, semaphores, PARTIAL_SUMS)


def sum_sequences(tape: Tape, shape: Shape, dtype: DType) -> None:
    """Allocate and free the buffers of x.sum(1) of a tensor (batch, sequence, width). Its sizes may be symbolic."""
    batch, length, width = shape
    sequence_functions = _sequence_functions(int(width), ITEMSIZE[dtype], tape.multiprocessors)
    partial, semaphores = (_applied(function, batch, length) for function in sequence_functions)
    _allocate(tape, partial, semaphores, SUMS_OF_TOKENS)


def _applied(function: Callable[[int, int], int], rows: int, outputs: int) -> int:
    for size in (rows, outputs):
        if isinstance(size, SymInt):
            return size.binary(function, "", rows, outputs)
    return function(rows, outputs)


@cache
def _parts(itemsize: int) -> Callable[[int, int], int]:
    """Return the function that computes in how many parts the rows of a matrix are summed.

    An input is halved until 32 bits index its bytes (TensorIterator's with_32bit_indexing). These functions are cached,
    because symbolic sizes compare expressions by their functions.
    """

    def parts(rows: int, outputs: int) -> int:
        count = 1
        while ceil_div(rows, count) * outputs * itemsize > _INDEXED:
            count *= 2
        return count

    return parts


@cache
def _row_functions(itemsize: int, multiprocessors: Multiprocessors) -> tuple[Callable[[int, int], int], ...]:
    """Return the functions of rows and outputs that compute the buffers of a sum, for the largest part of the rows."""
    parts = _parts(itemsize)

    def buffers_of(rows: int, outputs: int) -> Buffers:
        layout = Layout(ceil_div(rows, parts(rows, outputs)), outputs, outputs)
        return _buffers(layout, itemsize, multiprocessors)

    return (
        lambda rows, outputs: buffers_of(rows, outputs).partial,
        lambda rows, outputs: buffers_of(rows, outputs).semaphores,
    )


@cache
def _sequence_functions(
    width: int, itemsize: int, multiprocessors: Multiprocessors
) -> tuple[Callable[[int, int], int], ...]:
    """Return the functions of the batch and the length that compute the buffers of x.sum(1)."""

    def buffers_of(batch: int, length: int) -> Buffers:
        return _buffers(_layout([batch, length, width], [batch, 1, width]), itemsize, multiprocessors)

    return (
        lambda batch, length: buffers_of(batch, length).partial,
        lambda batch, length: buffers_of(batch, length).semaphores,
    )


@lru_cache(maxsize=4096)
def _buffers(layout: Layout, itemsize: int, multiprocessors: Multiprocessors) -> Buffers:
    return buffers(layout, itemsize, multiprocessors)


def _layout(given: list[int], kept: list[int]) -> Layout:
    """Return the layout of a reduction of a contiguous tensor to the dimensions that are kept.

    Neighboring dimensions that are both reduced, or both kept, are one (TensorIterator's coalesce_dimensions).
    """
    sizes = [(reduced, size) for size, left in zip(given, kept, strict=True) if size > 1 for reduced in (left != size,)]
    groups = [(reduced, prod(size for _, size in group)) for reduced, group in groupby(sizes, key=lambda pair: pair[0])]
    reduced = [size for is_reduced, size in groups if is_reduced]
    outputs = prod(size for is_reduced, size in groups if not is_reduced)
    is_inner = not groups or groups[-1][0]
    return Layout(prod(reduced), outputs, 1 if is_inner else groups[-1][1], is_inner, len(reduced))


def _allocate(tape: Tape, partial: int, semaphores: int, name: str) -> None:
    if partial:
        _partial = tape.scratch((partial,), "float32", name)
        _semaphores = tape.scratch((semaphores,), "int32", "semaphores of thread blocks")
