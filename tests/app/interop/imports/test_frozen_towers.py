"""LLaMA-Factory trains the language model of a model that reads images, unless a key states otherwise."""

import pytest

from app.interop.imports import read
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

QWEN, LLAVA = "Qwen/Qwen3-VL-4B-Instruct", "llava-hf/llava-1.5-7b-hf"


def found(model, more=""):
    return read(f"model_name_or_path: {model}\nstage: sft\nfinetuning_type: full\ncutoff_len: 256\nbf16: true\n{more}")


@pytest.mark.parametrize(("model", "names"), [(QWEN, []), (LLAVA, ["lm_head"])])
def test_towers_and_projectors_are_frozen_by_default(model, names):
    imported = found(model, "freeze_vision_tower: true\nfreeze_multi_modal_projector: true\n")
    assert imported.request["method"] == found(model).request["method"]
    method = {"name": "full", "unfrozen_parameters": ["model.language_model", *names], "unfrozen_dtype": "float32"}
    assert (imported.request["method"], imported.request["training"]["dtype"]) == (method, "bfloat16")
    assert not imported.not_understood
    counts = estimate(parse_request({**imported.request, "reserved": "rule"})).parameters
    tower = counts.base - counts.trainable
    assert 0 < tower < counts.base // 10


def test_deepspeed_keeps_float32_copies_itself():
    imported = found(QWEN, "deepspeed: ds_z3_config.json\n")
    assert imported.request["method"] == {"name": "full", "unfrozen_parameters": ["model.language_model"]}
    assert imported.request["training"]["dtype"] == "float32"


def test_a_model_that_is_trained_as_a_whole_has_no_names():
    imported = found(QWEN, "freeze_vision_tower: false\nfreeze_multi_modal_projector: false\n")
    assert imported.request["method"] == {"name": "full"}
    assert not imported.not_understood


def test_other_parts_are_listed():
    (missed,) = found(QWEN, "freeze_vision_tower: false\n").not_understood
    assert missed.key == "freeze_vision_tower"


def test_a_text_model_has_no_tower():
    assert found("Qwen/Qwen3-4B").request["method"] == {"name": "full"}
