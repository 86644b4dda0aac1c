"""The work of a first estimate on several GPUs, in executed lines of Python: it grows with no number of layers."""

import pytest

from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from tests.executed_lines import executed_lines

LORA = {"name": "lora", "r": 16, "target_modules": "all-linear"}
QLORA = {**LORA, "name": "qlora"}
TRAINING = {"autocast": "bfloat16", "gradient_checkpointing": True}


@pytest.mark.parametrize(
    ("sharding", "method", "most"),
    [
        ("ddp", {"name": "full"}, 44_000),
        ("ddp", QLORA, 69_000),
        ("fsdp", {"name": "full"}, 71_000),
        ("fsdp", {**QLORA, "quant_storage": "bfloat16"}, 123_000),
        ("zero1", {"name": "full"}, 72_000),
        ("zero2", LORA, 58_000),
        ("zero3", {"name": "full"}, 97_000),
        ("zero3", QLORA, 285_000),
    ],
)
def test_a_first_estimate_executes_few_lines(sharding, method, most):
    device = {"count": 8, "sharding": sharding}
    body = {"model": "meta-llama/Llama-3.1-70B", "method": method, "training": TRAINING, "device": device}
    request = parse_request({**body, "reserved": "rule"})
    estimate(request, SeriesCache())
    assert executed_lines(lambda: estimate(request, SeriesCache())) < most
