"""The workspace of torch._foreach_norm on CUDA.

The bytes of the first two tests are measured with PyTorch 2.13 on the stub of an A100 (`validation.stub_gpu`).
"""

import pytest

from calculator.common.total import total_bytes
from calculator.resident.tensor import new_tensor
from calculator.training_step.foreach_norm import at_norms


def gradient(elements, dtype="bfloat16", count=1):
    return new_tensor(name="weight", shape=(elements,), dtype=dtype, component="gradients", count=count)


@pytest.mark.parametrize(
    ("elements", "workspace"), [((10, 200_000, 70_000), 48), ((28_311_552, 576, 576, 576, 576), 8640)]
)
def test_the_workspace_has_a_norm_for_each_chunk_of_the_largest_gradient(elements, workspace):
    *norms, chunks = at_norms([gradient(size) for size in elements])
    assert chunks.shape[0] * 4 == workspace
    assert sum(norm.count for norm in norms) == len(elements)


def test_gradients_of_two_dtypes_have_one_workspace_after_the_other():
    first, second = gradient(70_000, "float32", count=3), gradient(1 << 20, count=2)
    alive = at_norms([first, second])
    assert [norm.count for norm in alive[:-1]] == [2, 3]  # the last dtype runs first
    assert total_bytes(alive) == 5 * 512 + 512
    assert at_norms([second, first])[-1].shape == (2 * 16,)
