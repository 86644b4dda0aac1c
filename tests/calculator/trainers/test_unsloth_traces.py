"""Both ends of Unsloth's interval equal the traced steps of its own code, to the byte.

Of 2026.8 without checkpointing, the forward phase is left out where its peak is in the loss: the traced one is not
compiled.
"""

import json
from pathlib import Path

import pytest

from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

CASES = [json.loads(line) for line in Path("tests/cases/intervals/unsloth.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_both_ends_are_those_of_the_traced_step(case):
    highest = estimate(parse_request({**case["request"], "reserved": "rule"})).memory
    for end, memory in (("lowest", highest.interval.lowest.memory), ("highest", highest)):
        expected = case["expected"][end]
        found = {phase.name: phase.peak_bytes for phase in memory.phases if phase.name in expected}
        assert found == expected
