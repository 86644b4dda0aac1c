"""Sorts and the gradient of indexing on CUDA.

Each size is measured with PyTorch 2.13 on the stub of an A100 (`validation.stub_gpu`): what the caching allocator gives
the backward pass of `x[indices]`.
"""

import pytest

from calculator.common.dtype import ITEMSIZE
from calculator.engine import indexing
from calculator.engine.autograd import AccumulateGrad
from calculator.engine.backward import backward
from calculator.engine.cuda_indexing import sort, sort_bytes
from calculator.engine.tape import Tape, Tensor


def indexed(rows, width, indices, *, cuda):
    """Return the rows that the backward pass of x[indices] allocates."""
    tape = Tape(cuda=cuda)
    x = Tensor(tape, None, (rows, width), "bfloat16", AccumulateGrad(tape, "x"))
    out = indexing.index(x, Tensor(tape, None, (indices,), "int64", None), "out")
    first = len(tape.rows)
    backward(tape, out, Tensor(tape, None, out.shape, "bfloat16", None))
    return [(shape, dtype) for _, shape, dtype, _, _ in tape.rows[first:]]


@pytest.mark.parametrize(
    ("pairs", "largest", "size"),
    [
        (1000, 2048, 1),
        (4096, 2048, 72_191),
        (8192, 8192, 138_751),
        (70_000, 100_000, 1_146_367),
        (2304, 65_536, 1),
        (20_000, 300, 330_751),
        (5000, 256, 4607),
    ],
)
def test_a_sort_of_indices_has_a_workspace(pairs, largest, size):
    assert sort_bytes(pairs, largest, (8, 0)) == size


@pytest.mark.parametrize(
    ("capability", "size"), [((7, 5), 345_087), ((8, 9), 343_039), ((9, 0), 342_015), ((12, 0), 342_015)]
)
def test_a_sort_has_larger_blocks_on_newer_gpus(capability, size):
    tape = Tape(cuda=True)
    tape.capability = capability
    sort(tape, 20_000)
    assert [shape for _, shape, *_ in tape.rows] == [(20_000,), (size,)]


@pytest.mark.parametrize(
    ("count", "sizes"), [(1000, [8000]), (4096, [32_768]), (4097, [32_776, 84_991]), (70_000, [560_000, 1_156_607])]
)
def test_a_sort_of_numbers_has_their_order_and_from_4097_on_a_workspace(count, sizes):
    tape = Tape(cuda=True)
    sort(tape, count)
    assert [shape[0] * ITEMSIZE[dtype] for _, shape, dtype, *_ in tape.rows] == sizes
    assert len(tape.events) == 2 * len(sizes)


def test_rows_of_equal_indices_are_added_in_place():
    sort = [((4096,), "int64")] * 5
    assert indexed(2048, 512, 4096, cuda=True) == [((2048, 512), "bfloat16"), *sort, ((72_191,), "uint8")]
    assert indexed(2048, 512, 4096, cuda=False) == [((2048, 512), "bfloat16")] * 2


def test_the_gradient_of_the_largest_values_is_scattered_in_place():
    tape = Tape(cuda=True)
    x = Tensor(tape, None, (4096, 64), "float32", AccumulateGrad(tape, "x"))
    values, _ = indexing.top_k(x, 4, "values")
    backward(tape, values, Tensor(tape, None, values.shape, "float32", None))
    assert [shape for _, shape, _, _, _ in tape.rows[2:]] == [(4096, 64)]
