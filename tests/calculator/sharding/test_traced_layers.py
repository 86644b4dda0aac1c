"""Settings of single layers on several GPUs, compared with traces of one rank (tests/cases/README.md)."""

import json

import pytest

from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from tests.paths import CASE_FILES

CASES = [json.loads(line) for line in (CASE_FILES / "sharded" / "layers.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_every_phase_of_a_rank_with_layers_that_differ_is_right_to_the_byte(case):
    memory = estimate(parse_request({**case["request"], "reserved": "rule"})).memory
    assert {phase.name: phase.peak_bytes for phase in memory.phases} == case["expected"]["phases"]
