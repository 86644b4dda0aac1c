"""Estimates of ranks under ZeRO-1 and ZeRO-2 compared with traces of DeepSpeed (tests/cases/README.md)."""

import json

import pytest

from calculator.estimation.estimate import estimate, training_step
from calculator.estimation.request import parse_request
from tests.paths import CASE_FILES

CASES = [json.loads(line) for line in (CASE_FILES / "sharded" / "zero.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_every_phase_of_a_rank_under_zero_is_exact(case):
    request = parse_request(case["request"])
    flat = training_step(request).flat
    for rank, expected in case["expected"]["phases_of_ranks"].items():
        assert flat.phases_of(flat.ranks[int(rank)]) == expected
    answer = estimate(request)
    assert answer.memory.peak_allocated_bytes == flat.peak_of(flat.peak_rank)
    counts = {name: getattr(answer.parameters, name) for name in case["expected"]["parameters"]}
    assert counts == case["expected"]["parameters"]
