"""Estimates of one rank with methods of PEFT that are modeled in plain steps (tests/cases/README.md)."""

import json

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.methods import METHODS
from tests.paths import CASE_FILES

CASES = [json.loads(line) for line in (CASE_FILES / "sharded" / "methods.jsonl").read_text().splitlines()]
LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_every_phase_is_exact(case):
    answer = estimate(parse_request({**case["request"], "reserved": "rule"}))
    assert {phase.name: phase.peak_bytes for phase in answer.memory.phases} == case["expected"]["phases"]


def test_every_sharding_that_a_method_names_has_a_case():
    named = {(name, sharding) for name, method in METHODS.items() for sharding in method.facts.plain_shardings}
    traced = {(case["request"]["method"]["name"], case["request"]["device"]["sharding"]) for case in CASES}
    assert named == {(name, sharding) for name, sharding in traced if METHODS[name].facts.plain_shardings}


def refused(method, sharding, config=LLAMA, **training):
    body = {"model": {"config": config}, "method": method, "training": {"sequence_length": 32, **training}}
    with pytest.raises(PlanError) as caught:
        estimate(parse_request(body | {"device": {"count": 2, "sharding": sharding}, "reserved": "rule"}))
    return [problem.loc for problem in caught.value.problems]


def test_other_shardings_and_trainers_are_refused():
    assert refused({"name": "delora"}, "zero3", autocast="bfloat16", adapter_dtype="model") == [
        "device.sharding",
        "method.name",
    ]
    assert refused({"name": "lily"}, "zero3", autocast="bfloat16") == ["device.sharding", "method.name"]
    assert refused({"name": "vblora"}, "fsdp") == ["device.sharding"]
    assert refused({"name": "vera"}, "ddp", trainer="transformers") == ["training.trainer"]
    assert refused({"name": "lora", "load_in_8bit": True}, "ddp") == ["device.count"]


@pytest.mark.parametrize("name", ["delora", "pvera", "randlora", "tinylora", "unilora", "vera"])
def test_buffers_in_another_dtype_than_the_cast_adapters_are_refused(name):
    assert refused({"name": name}, "zero2", autocast="bfloat16") == ["training.adapter_dtype"]
    assert refused({"name": name}, "zero2", autocast="bfloat16", dtype="float32", adapter_dtype="model")


@pytest.mark.parametrize("name", ["adamss", "osf"])
def test_buffers_in_the_dtype_of_a_float32_base_are_refused(name):
    assert refused({"name": name}, "zero1", autocast="bfloat16", dtype="float32") == ["training.dtype"]


def test_vera_under_fsdp_with_mixed_precision_is_refused():
    assert refused({"name": "vera"}, "fsdp", autocast="bfloat16") == ["training.adapter_dtype"]


def test_trained_tokens_of_a_tied_head_are_estimated_under_zero():
    lora = {"name": "lora", "target_modules": ["q_proj"], "trainable_token_indices": [1, 2]}
    body = {"model": {"config": {**LLAMA, "tie_word_embeddings": True}}, "method": lora, "reserved": "rule"}
    training = {"sequence_length": 32, "autocast": "bfloat16"}
    assert estimate(parse_request(body | {"training": training, "device": {"count": 2, "sharding": "zero2"}}))


def test_a_method_that_peft_has_not_for_a_model_is_refused_under_fsdp():
    locs = refused({"name": "adaption_prompt"}, "fsdp", config={**LLAMA, "model_type": "qwen2"})
    assert {*locs} == {"device.count"}


def test_a_static_graph_with_accumulation_is_refused_as_ddp_fails_in_its_first_step():
    accumulates = {"gradient_accumulation_steps": 2, "ddp": {"static_graph": True}}
    assert refused({"name": "lora"}, "ddp", **accumulates) == ["training.ddp.static_graph"]
