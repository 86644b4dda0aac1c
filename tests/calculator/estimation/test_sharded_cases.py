"""Estimates of one rank of a sharded run compared with its traces (tests/cases/README.md)."""

import json
from collections import Counter

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from tests.paths import CASE_FILES

CASES = [json.loads(line) for line in (CASE_FILES / "sharded.jsonl").read_text().splitlines()]


#: Cases that an estimate refuses, and words of the reason. DDP: two accumulation steps with bucket views, and outputs
#: with a cache. FSDP: a prefix in another dtype than the queries, which only the emulated kernels run. ZeRO-3: a
#: method whose order of calls is not modeled.
REFUSED = dict.fromkeys(("ddp-002", "ddp-005", "ddp-010", "ddp-037"), "not modeled yet") | {
    "fsdp-012": "attention refuses keys in another dtype",
}


def sharding(case):
    return case["request"]["device"]["sharding"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_every_phase_of_a_rank_is_right_to_the_byte(case):
    if case["id"] in REFUSED:
        with pytest.raises(PlanError, match=REFUSED[case["id"]]):
            estimate(parse_request(case["request"]))
        return
    memory = estimate(parse_request({**case["request"], "reserved": "rule"})).memory
    missing = {case["expected"]["phases"][phase.name] - phase.peak_bytes for phase in memory.phases}
    assert missing == {0}


def test_the_cases_cover_every_sharding():
    counts = Counter(map(sharding, CASES))
    assert counts["ddp"] >= 40
    assert counts["fsdp"] >= 40
    assert set(counts) == {"ddp", "fsdp", "zero1", "zero2", "zero3"}
