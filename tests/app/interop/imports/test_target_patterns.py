"""A pattern of target_modules becomes names and layers, where these match the same modules."""

import time

import pytest

from app.interop.imports import read
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

LLAMA, LLAVA, QWEN = "meta-llama/Llama-3.1-8B", "llava-hf/llava-1.5-7b-hf", "Qwen/Qwen3.5-4B"
PROJECTIONS = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def axolotl(model, pattern):
    return read(f"base_model: {model}\nadapter: lora\nlora_r: 8\nlora_target_modules: '{pattern}'\n")


def test_a_pattern_of_the_language_model_leaves_out_the_tower():
    pattern = r"model.language_model.layers.[\d]+.(mlp|cross_attn|self_attn).(up|down|gate|q|k|v|o)_proj"
    found = axolotl(LLAVA, pattern)
    method = found.request["method"]
    assert method["target_modules"] == PROJECTIONS
    assert method["layers_pattern"] == ["language_model.layers"]
    assert method["layers_to_transform"] == list(range(32))
    counts = estimate(parse_request({**found.request, "reserved": "rule"})).parameters
    assert counts.added == 32 * 8 * (4 * (4096 + 4096) + 3 * (4096 + 11008))


@pytest.mark.parametrize("target", ["all", "q_proj,v_proj"])
def test_llama_factory_adapts_no_tower_that_it_freezes(target):
    def method(more=""):
        return read(f"model_name_or_path: {LLAVA}\nstage: sft\nlora_target: {target}\n{more}").request["method"]

    names = PROJECTIONS if target == "all" else ["q_proj", "v_proj"]
    assert (method()["target_modules"], method()["layers_pattern"]) == (names, ["language_model.layers"])
    whole = method("freeze_vision_tower: false\n")
    assert whole["target_modules"] == ("all-linear" if target == "all" else names)
    assert "layers_pattern" not in whole


def test_llama_factory_adapts_the_tower_of_a_model_whose_tower_it_does_not_know():
    file = "model_name_or_path: HuggingFaceTB/SmolVLM2-2.2B-Instruct\nstage: sft\nlora_target: all\n"
    assert read(file).request["method"]["target_modules"] == "all-linear"


def test_a_pattern_with_the_only_layers_that_have_its_modules_becomes_names():
    pattern = r".*\.layers\.(3|7|11|15|19|23|27|31)\.self_attn\.(q|k|v|o)_proj|.*\.mlp\.(gate|up|down)_proj"
    method = axolotl(QWEN, pattern).request["method"]
    assert method["target_modules"] == PROJECTIONS
    assert "layers_to_transform" not in method


def test_a_text_model_has_the_names_of_the_model_that_reads_images():
    pattern = r"model.language_model.layers.[\d]+.(_checkpoint_wrapped_module.)?(mlp|self_attn).(up|o)_proj"
    assert axolotl("google/gemma-4-E2B", pattern).request["method"]["target_modules"] == ["o_proj", "up_proj"]


@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.layers\.[0-7]\.self_attn\.q_proj",
        r"(.*)*x",
        r"(a+)+b",
        "(" * 9,
        r".*" * 9,
        r"nothing\d+",
    ],
)
def test_a_pattern_that_names_cannot_express_is_listed_quickly(pattern):
    start = time.process_time()
    found = axolotl(LLAMA, pattern)
    assert time.process_time() - start < 5
    assert found.request["method"]["target_modules"] is None
    assert [remark.key for remark in found.not_understood if "pattern" in remark.why] == ["lora_target_modules"]


def test_an_adapters_pattern_becomes_names():
    file = {
        "base_model_name_or_path": LLAMA,
        "peft_type": "LORA",
        "r": 4,
        "target_modules": r".*\.self_attn\.[qv]_proj",
    }
    assert read(file).request["method"]["target_modules"] == ["q_proj", "v_proj"]
