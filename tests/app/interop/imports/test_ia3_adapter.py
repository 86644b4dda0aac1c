"""An adapter_config.json of IA³ is read with PEFT's own defaults."""

import json

import peft
import pytest

from app.interop.imports import read

LLAMA = "meta-llama/Llama-3.1-8B"


def imported(tmp_path, **settings):
    """The request of the file that PEFT writes."""
    peft.IA3Config(base_model_name_or_path=LLAMA, task_type="CAUSAL_LM", **settings).save_pretrained(tmp_path)
    return read(json.loads((tmp_path / "adapter_config.json").read_text()))


def test_the_file_that_peft_writes_is_the_request_that_it_was_written_from(tmp_path):
    settings = {"target_modules": ["down_proj"], "feedforward_modules": ["down_proj"], "modules_to_save": ["lm_head"]}
    settings["exclude_modules"] = ["lm_head"]
    found = imported(tmp_path, **settings, init_ia3_weights=False)
    assert found.request["method"] == {"name": "ia3", **settings, "init_ia3_weights": False}
    assert [remark.key for remark in found.not_understood] == ["quantization_config"]


def test_settings_that_the_file_omits_have_pefts_defaults(tmp_path):
    method = imported(tmp_path).request["method"]
    assert method["target_modules"] is method["feedforward_modules"] is None


@pytest.mark.parametrize("value", [[], ".*down_proj"])
def test_feed_forward_modules_that_are_no_names_are_listed(tmp_path, value):
    found = imported(tmp_path, target_modules="all-linear", feedforward_modules=value)
    assert found.request["method"]["target_modules"] == "all-linear"
    assert {remark.key: remark.value for remark in found.not_understood}["feedforward_modules"] == value
