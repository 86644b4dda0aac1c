"""Estimates of one rank under DDP compared with traces of the real library (tests/cases/README.md)."""

import json

import pytest

from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from tests.paths import CASE_FILES

CASES = [json.loads(line) for line in (CASE_FILES / "sharded" / "ddp.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_every_phase_under_ddp_is_exact(case):
    answer = estimate(parse_request({**case["request"], "reserved": "rule"}))
    assert {phase.name: phase.peak_bytes for phase in answer.memory.phases} == case["expected"]["phases"]
    counts = {name: getattr(answer.parameters, name) for name in case["expected"]["parameters"]}
    assert counts == case["expected"]["parameters"]
