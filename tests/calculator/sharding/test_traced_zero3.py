"""Estimates of a rank under ZeRO-3 compared with traces of DeepSpeed (tests/cases/README.md)."""

import json

import pytest

from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from tests.paths import CASE_FILES

CASES = [json.loads(line) for line in (CASE_FILES / "sharded" / "zero3.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_every_phase_of_a_rank_under_zero_3_is_exact(case):
    memory = estimate(parse_request({**case["request"], "reserved": "rule"})).memory
    assert {phase.name: phase.peak_bytes for phase in memory.phases} == case["expected"]["phases"]
