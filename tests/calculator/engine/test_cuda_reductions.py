"""The buffers of reductions on CUDA.

Each size is measured with PyTorch 2.13 on the stub of an A100 (`validation.stub_gpu`): what the caching allocator gives
the operation after its output.
"""

import pytest

from calculator.devices import gpu
from calculator.devices.multiprocessors import multiprocessors_of
from calculator.engine import cuda_reductions, products
from calculator.engine.autograd import AccumulateGrad
from calculator.engine.backward import backward
from calculator.engine.cuda_embedding import add_rows_of_equal_ids
from calculator.engine.cuda_layer_norm import sum_gradients
from calculator.engine.cuda_reductions import sum_to
from calculator.engine.sym_sizes import SymSizes
from calculator.engine.symbolic_sizes import ShapeEnv
from calculator.engine.tape import Tape, Tensor

ITEMSIZE = {"float32": 4, "int32": 4, "int64": 8, "bfloat16": 2}


def allocated(tape):
    """Return the bytes of each row of a tape, before they are rounded."""
    sizes = []
    for _, shape, dtype, _, _ in tape.rows:
        size = ITEMSIZE[dtype]
        for dim in shape:
            size *= dim
        sizes.append(size)
    return sizes


@pytest.mark.parametrize(
    ("given", "shape", "sizes"),
    [
        ((1, 4096, 2048), (2048,), [67_108_864, 64]),
        ((1, 2048, 576), (576,), [9_437_184, 20]),
        ((1, 3000, 896), (896,), [21_561_344, 28]),
        ((1, 8192, 4096), (4096,), [113_246_208, 128]),
        ((1, 16384, 64), (64,), [2_097_152, 4]),
        ((1, 100_000, 128), (128,), [102_432_768, 4]),
        ((2, 4096, 30), (30,), [30_720, 8]),
        ((1, 512, 768), (768,), []),
        ((2, 1025, 33), (33,), []),
        ((2, 4096, 1), (1,), []),
        ((2, 3000, 4, 64), (2, 1, 4, 64), [12_320_768, 16]),
        ((8, 64, 100_000), (8, 1, 100_000), []),
        ((8, 2048, 96), (1, 2048, 1), []),
        ((4, 1_000_000), (4, 1), [1728, 16]),
        ((1_000_000,), (), [492, 4]),
        ((16, 3, 5, 224, 224), (1, 3, 1, 1, 1), [1728, 12]),
        ((64, 8192, 4096), (4096,), [16_384, 536_870_912, 128]),  # more than 32 bits index
    ],
)
def test_a_sum_in_bfloat16_allocates_what_it_does_on_cuda(given, shape, sizes):
    tape = Tape(cuda=True)
    sum_to(tape, given, shape, "bfloat16")
    assert allocated(tape) == sizes
    assert len(tape.events) == 2 * len(sizes)  # everything is freed


def test_a_sum_in_float32_accumulates_in_its_output():
    tape = Tape(cuda=True)
    sum_to(tape, (64, 8192, 2100), (2100,), "float32")
    assert allocated(tape) == [137_625_600, 68]


def test_a_sum_of_symbolic_sizes_is_that_of_their_values():
    shape_env = ShapeEnv()
    rows, tape = shape_env.create_symint(4096), Tape(cuda=True)
    tape.sizes = SymSizes(shape_env)
    sum_to(tape, (1, rows, 2048), (2048,), "bfloat16")
    (partial,), (semaphores,) = (shape for _, shape, _, _, _ in tape.rows)
    values = shape_env.evaluate([8192])
    assert values is not None
    assert [partial.evaluate(values) * 4, semaphores.evaluate(values) * 4] == [113_246_208, 64]
    assert shape_env.evaluate([512]) is None  # too few rows to be split


def test_gpus_with_fewer_threads_split_a_sum_over_fewer_blocks():
    tape = Tape(cuda=True)
    tape.multiprocessors = multiprocessors_of(gpu("rtx-4090"))
    sum_to(tape, (1, 8192, 4096), (4096,), "bfloat16")
    assert allocated(tape)[0] < 113_246_208
    assert multiprocessors_of(None).threads == multiprocessors_of(gpu("a100-sxm4-80gb")).threads == 2048


@pytest.mark.parametrize(
    ("ids", "sizes"),
    [
        (2048, []),
        (4096, [32_768, 32_768, 32_768, 32_768, 32_768, 8, 8, 36_040, 10_379_520]),
        (8192, [65_536, 65_536, 65_536, 65_536, 65_536, 8, 8, 72_088, 20_761_344]),
    ],
)
def test_the_gradient_of_an_embedding_adds_up_equal_ids(ids, sizes):
    tape = Tape(cuda=True)
    add_rows_of_equal_ids(tape, ids, (49_152, 576))
    assert allocated(tape) == sizes


@pytest.mark.parametrize(
    ("rows", "width", "dtype", "sizes"),
    [
        (70_000, 768, "bfloat16", [2_096_640, 2_096_640, 1536, 8_650_752, 24, 1536, 8_650_752, 24]),
        (70_000, 1024, "float32", [4_194_304, 4_194_304, 4096, 8_388_608, 32, 4096, 8_388_608, 32]),
        (200_000, 64, "bfloat16", [800_000, 800_000, 128, 802_816, 4, 128, 802_816, 4]),
        (70_000, 1728, "bfloat16", []),
        (3000, 768, "bfloat16", []),
    ],
)
def test_a_layer_norm_of_many_rows_sums_gradients_of_blocks(rows, width, dtype, sizes):
    tape = Tape(cuda=True)
    x = Tensor(tape, None, (rows, width), dtype, None)
    weight = Tensor(tape, None, (width,), dtype, None)
    sum_gradients(x, [weight, weight])
    assert allocated(tape) == sizes


def test_every_function_of_sizes_is_one_object_for_all_callers():
    multiprocessors = multiprocessors_of(None)
    assert cuda_reductions._row_functions(2, multiprocessors) is cuda_reductions._row_functions(2, multiprocessors)


def test_a_linear_layer_of_stage_3_sums_its_biass_gradient():
    tape = Tape(cuda=True)
    tape.calls_modules = True
    shapes = {"x": (1, 4096, 64), "weight": (2048, 64), "bias": (2048,)}
    x, weight, bias = (
        Tensor(tape, None, shape, "bfloat16", AccumulateGrad(tape, name)) for name, shape in shapes.items()
    )
    out = products.matmul(x, weight, bias, 2048, "output")
    backward(tape, out, Tensor(tape, None, out.shape, "bfloat16", None))
    assert allocated(tape)[-2:] == [67_108_864, 64]
