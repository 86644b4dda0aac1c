"""The bytes that stay through a step under stage 3, with the weights that are gathered when it begins."""

import json

import pytest

from calculator.estimation.request import parse_request
from tests.paths import CASE_FILES
from validation.comparison.compare import estimate

LINES = (CASE_FILES / "sharded" / "trainers.jsonl").read_text(encoding="utf-8").splitlines()
CASES = [case for case in map(json.loads, LINES) if case["id"].endswith("-passes")]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_persistent_weights_of_the_base_and_of_adapters_are_static(case):
    assert estimate(parse_request(case["request"])).static == case["expected"]["static"]
