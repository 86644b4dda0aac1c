"""An adapter_config.json of LN Tuning is read with PEFT's own defaults."""

import json

import peft
import pytest

from app.interop.imports import read

LLAMA = "meta-llama/Llama-3.1-8B"


@pytest.mark.parametrize(
    "settings",
    [{}, {"target_modules": ["norm"], "modules_to_save": ["lm_head"]}, {"target_modules": "all-linear"}],
    ids=str,
)
def test_the_file_that_peft_writes_is_the_request_that_it_was_written_from(tmp_path, settings):
    peft.LNTuningConfig(base_model_name_or_path=LLAMA, task_type="CAUSAL_LM", **settings).save_pretrained(tmp_path)
    found = read(json.loads((tmp_path / "adapter_config.json").read_text()))
    defaults = {"name": "ln_tuning", "target_modules": None, "modules_to_save": None, "exclude_modules": None}
    assert found.request["method"] == defaults | settings
    assert [remark.key for remark in found.not_understood] == ["quantization_config"]
