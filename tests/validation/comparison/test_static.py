"""The bytes that stay through a step under stage 3, with the weights that are gathered when it begins."""

import json

import pytest

from calculator.estimation.request import parse_request
from tests.paths import CASE_FILES
from validation.comparison.compare import estimate

SHARDED = (CASE_FILES / "sharded.jsonl", *(CASE_FILES / "sharded").glob("*.jsonl"))

#: Runs of 4-bit models, where the graph of the step before keeps gathered weights, which a step frees.
OF_4_BITS = {"zero3-bloom-qlora", "zero3-images-internvl-qlora-float32", "zero3-qlora-first-layer-trained-bias"}

#: Runs of adapters, whose flat tensor and buffers are theirs, and of gradients on the host.
OF_ADAPTERS = {
    "zero3-003",
    "zero3-011",
    "zero3-pvera",
    "zero3-trainable-tokens",
    "trl-sft-zero3-2051-27",
    "trl-grpo-zero3-45009-1",
}
ON_HOST = {"zero3-prefix-611039-38", "zero3-99101-79"}

#: Runs that partition persistent weights once they have generated.
GENERATING = {"trl-grpo-zero3-qlora-beta", "trl-grpo-zero3-lora-acc", "trl-grpo-zero3-full-acc"}
CHOSEN = OF_4_BITS | OF_ADAPTERS | ON_HOST | GENERATING

LINES = [line for path in SHARDED for line in path.read_text(encoding="utf-8").splitlines()]
CASES = [case for case in map(json.loads, LINES) if case["id"].endswith("-passes") or case["id"] in CHOSEN]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_persistent_weights_of_the_base_and_of_adapters_are_static(case):
    assert estimate(parse_request(case["request"])).static == case["expected"]["static"]
