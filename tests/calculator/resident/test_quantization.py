"""The blocks that weights are quantized in."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.resident.quantization import BLOCKSIZES


def of_blocks(size):
    return parse_request(
        {"model": "gpt2", "method": {"name": "qlora", "blocksize": size, "target_modules": "all-linear"}}
    )


@pytest.mark.parametrize("size", [33, 48, 63, 100, 4000])
def test_a_block_size_without_a_kernel_is_refused_with_those_that_have_one(size):
    with pytest.raises(PlanError) as caught:
        estimate(of_blocks(size))
    (problem,) = caught.value.problems
    assert (problem.loc, problem.input) == ("method.blocksize", size)
    assert "use one of 32, 64, 128" in problem.msg


def test_block_sizes_are_those_that_bitsandbytes_takes():
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = torch.empty(64, 64, device="meta")
    for size in range(16, 8193, 16):
        if size in BLOCKSIZES:
            functional.quantize_4bit(weight, blocksize=size)
            estimate(of_blocks(size))
        else:
            with pytest.raises((RuntimeError, ValueError), match="blocksize"):
                functional.quantize_4bit(weight, blocksize=size)
