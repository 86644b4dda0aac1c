"""The work of a first estimate on one GPU, by the rule: executed lines and distinct functions of Python.

The limits are at most 2 % above the counts. `validation bench` prints the time.
"""

import pytest

from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from tests.executed_lines import executed_functions, executed_lines

LORA = {"name": "lora", "r": 16, "target_modules": "all-linear"}


@pytest.mark.parametrize(
    ("size", "method", "checkpointed", "lines", "functions"),
    [
        ("8B", LORA, False, 28_800, 664),
        ("8B", LORA, True, 29_850, 655),
        ("70B", {**LORA, "name": "qlora"}, False, 32_750, 710),
    ],
)
def test_a_first_estimate_executes_few_lines_and_functions(size, method, checkpointed, lines, functions):
    training = {"gradient_checkpointing": checkpointed}
    body = {"model": f"meta-llama/Llama-3.1-{size}", "method": method, "training": training, "reserved": "rule"}
    request = parse_request(body)
    estimate(request, SeriesCache())  # once, for what no request changes
    assert executed_lines(lambda: estimate(request, SeriesCache())) < lines
    assert executed_functions(lambda: estimate(request, SeriesCache())) < functions
