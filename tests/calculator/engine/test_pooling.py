"""A sum of tokens on CUDA.

Each size is measured with PyTorch 2.14 on the stub of an A100 (`validation.stub_gpu`): what the caching allocator gives
`x.sum(1)`.
"""

import pytest

from calculator.engine.cuda_reductions import SUMS_OF_TOKENS
from calculator.engine.pooling import sum_of_tokens
from calculator.engine.sym_sizes import SymSizes
from calculator.engine.symbolic_sizes import ShapeEnv
from calculator.engine.tape import Tape, Tensor


def buffers(shape, *, cuda=True):
    tape = Tape(cuda=cuda)
    sum_of_tokens(Tensor(tape, None, shape, "bfloat16", None))
    return [(shape, dtype) for name, shape, dtype, _, _ in tape.rows[1:]]


@pytest.mark.parametrize(
    ("shape", "values", "semaphores"),
    [((2, 1024, 768), 3_145_728, 12), ((4, 2048, 768), 12_582_912, 24), ((1, 4096, 2048), 16_777_216, 16)],
)
def test_a_sum_of_many_tokens_has_a_buffer_of_its_thread_blocks(shape, values, semaphores):
    assert buffers(shape) == [((values,), "float32"), ((semaphores,), "int32")]
    assert not buffers(shape, cuda=False)


def test_a_sum_of_few_tokens_has_none():
    assert not buffers((4, 512, 768))


def test_the_buffer_of_symbolic_sizes_is_that_of_their_values():
    shape_env = ShapeEnv()
    batch, length = shape_env.create_symint(2), shape_env.create_symint(1024)
    tape = Tape(cuda=True)
    tape.sizes = SymSizes(shape_env)
    sum_of_tokens(Tensor(tape, None, (batch, length, 768), "bfloat16", None))
    ((partial,),) = (shape for name, shape, *_ in tape.rows if name == SUMS_OF_TOKENS)
    values = shape_env.evaluate([4, 2048])
    assert values is not None
    assert partial.evaluate(values) == 12_582_912
