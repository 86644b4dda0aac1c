"""FSDP2 whose units are named by their classes."""

import json

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from tests.paths import CASE_FILES

CASES = [json.loads(line) for line in (CASE_FILES / "sharded" / "wrapped_classes.jsonl").read_text().splitlines()]


def refused(model, **training):
    device = {"count": 2, "sharding": "fsdp"}
    body = {"model": model, "method": {"name": "full"}, "training": training, "device": device}
    with pytest.raises(PlanError) as caught:
        estimate(parse_request(body))
    return {problem.loc: problem.msg for problem in caught.value.problems}


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_phases_equal_the_trace(case):
    memory = estimate(parse_request({**case["request"], "reserved": "rule"})).memory
    assert {phase.name: phase.peak_bytes for phase in memory.phases} == case["expected"]["phases"]


def test_a_model_whose_class_names_missing_layers_is_refused_with_the_names_to_set():
    assert "['Qwen3_5DecoderLayer']" in refused("Qwen/Qwen3.5-0.8B")["device.sharding"]


def test_classes_of_other_modules_are_refused():
    field = "training.fsdp_config.transformer_layer_cls_to_wrap"
    named = refused("gpt2", fsdp_config={"transformer_layer_cls_to_wrap": ["GPT2MLP"]})
    assert "GPT2Block" in named[field]
    images = refused("google/gemma-3-4b-pt", fsdp_config={"transformer_layer_cls_to_wrap": ["Gemma3DecoderLayer"]})
    assert "leave it out" in images[field]
