"""The bytes that stay through a step under stage 3, with the weights that are gathered when it begins."""

import json

import pytest

from calculator.estimation.request import parse_request
from tests.paths import CASE_FILES
from validation.comparison.compare import estimate

SHARDED = (CASE_FILES / "sharded" / "trainers.jsonl", CASE_FILES / "sharded" / "zero3.jsonl")

#: Runs of 4-bit models, where the graph of the step before keeps gathered weights, which a step frees.
OF_4_BITS = {"zero3-bloom-qlora", "zero3-images-internvl-qlora-float32", "zero3-qlora-first-layer-trained-bias"}

LINES = [line for path in SHARDED for line in path.read_text(encoding="utf-8").splitlines()]
CASES = [case for case in map(json.loads, LINES) if case["id"].endswith("-passes") or case["id"] in OF_4_BITS]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_persistent_weights_of_the_base_and_of_adapters_are_static(case):
    assert estimate(parse_request(case["request"])).static == case["expected"]["static"]
