"""Estimates of one rank with models that also read images (tests/cases/README.md)."""

import json

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from tests.paths import CASE_FILES

CASES = [json.loads(line) for line in (CASE_FILES / "sharded" / "images.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_every_phase_is_exact(case):
    answer = estimate(parse_request({**case["request"], "reserved": "rule"}))
    assert {phase.name: phase.peak_bytes for phase in answer.memory.phases} == case["expected"]["phases"]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_a_replay_reserves_at_least_what_is_allocated(case):
    memory = estimate(parse_request(case["request"])).memory
    assert memory.peak_reserved_bytes >= memory.peak_allocated_bytes


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("google/gemma-3-4b-pt", "accelerate looks for SiglipTextEmbeddings"),
        ("google/paligemma-3b-pt-224", "accelerate looks for SiglipTextEmbeddings"),
        ("google/gemma-4-E2B", "accelerate looks for Gemma4AudioLayer"),
        ("llava-hf/llava-1.5-7b-hf", "accelerate looks for CLIPTextEmbeddings"),
    ],
)
def test_towers_that_fsdp_does_not_wrap_are_refused(model, words):
    body = {"model": model, "device": {"count": 2, "sharding": "fsdp"}, "method": {"name": "lora"}}
    body["method"]["target_modules"] = "all-linear"
    with pytest.raises(PlanError, match=words) as caught:
        estimate(parse_request(body))
    assert [problem.loc for problem in caught.value.problems] == ["device.sharding"]
