"""The work of a first estimate on several GPUs, in executed lines of Python: it grows with no number of layers.

The limits are 3 to 4 % above the counts. Sizes are counted in a loop over events, whose lines count here. The functions
of `itertools` that it replaced executed fewer lines and took longer.
"""

import pytest

from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from tests.executed_lines import executed_lines

LORA = {"name": "lora", "r": 16, "target_modules": "all-linear"}
QLORA = {**LORA, "name": "qlora"}
TRAINING = {"autocast": "bfloat16", "gradient_checkpointing": True}


@pytest.mark.parametrize(
    ("sharding", "count", "method", "most"),
    [
        ("ddp", 8, {"name": "full"}, 31_200),
        ("ddp", 8, QLORA, 50_300),
        ("fsdp", 8, {"name": "full"}, 52_600),
        ("fsdp", 8, {**QLORA, "quant_storage": "bfloat16"}, 91_000),
        ("zero1", 8, {"name": "full"}, 52_000),
        ("zero1", 64, {"name": "full"}, 61_200),
        ("zero2", 8, LORA, 48_400),
        ("zero2", 64, QLORA, 60_800),
        ("zero3", 8, {"name": "full"}, 58_400),
        ("zero3", 8, LORA, 89_000),
        ("zero3", 8, QLORA, 107_000),
    ],
)
def test_a_first_estimate_executes_few_lines(sharding, count, method, most):
    device = {"count": count, "sharding": sharding}
    body = {"model": "meta-llama/Llama-3.1-70B", "method": method, "training": TRAINING, "device": device}
    request = parse_request({**body, "reserved": "rule"})
    estimate(request, SeriesCache())
    assert executed_lines(lambda: estimate(request, SeriesCache())) < most
