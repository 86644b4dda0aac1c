"""The adapter_config.json that PEFT writes of a method is the request that it was written from."""

import json

import peft
import pytest

from app.interop.imports import read
from calculator.methods import METHODS
from calculator.methods.config_arguments import config_arguments

LLAMA = "meta-llama/Llama-3.1-8B"
#: Methods whose settings are those of a file; QLoRA's file is LoRA's.
NAMES = [name for name, cls in METHODS.items() if cls.facts.config_class and name != "qlora"]
#: Settings other than the defaults.
OTHER = {
    "miss": {"r": 16, "init_weights": "mini", "mini_r": 4, "bias": "all"},
    "vera": {"r": 64, "vera_dropout": 0.1, "save_projection": False},
    "loha": {"r": 4, "alpha": 16, "exclude_modules": ["v_proj"], "target_modules": "all-linear"},
    "hira": {"r": 8, "hira_dropout": 0.1},
    "delora": {"module_dropout": 0.1, "bias": "all"},
    "gralora": {"gralora_k": 4, "hybrid_r": 8},
    "hra": {"r": 4},
    "randlora": {"r": 16, "bias": "randlora_only"},
    "oft": {"r": 8, "oft_block_size": 0, "block_share": True},
    "road": {"variant": "road_4", "group_size": 32},
    "p_tuning": {"encoder_hidden_size": 128},
    "lokr": {"decompose_both": True, "decompose_factor": 8, "modules_to_save": ["lm_head"]},
}


def imported(tmp_path, name, settings):
    config = getattr(peft, METHODS[name].facts.config_class)
    config(base_model_name_or_path=LLAMA, task_type="CAUSAL_LM", **settings).save_pretrained(tmp_path)
    return read(json.loads((tmp_path / "adapter_config.json").read_text()))


@pytest.mark.filterwarnings("ignore:Specified to not save")
@pytest.mark.parametrize("name", NAMES)
def test_the_file_of_a_method_is_read_whole(name, tmp_path):
    settings = config_arguments(METHODS[name]()) | OTHER.get(name, {})
    found = imported(tmp_path, name, settings)
    assert found.request["method"] == {"name": name, **settings}
    assert [each.key for each in found.not_understood] == ["quantization_config"]
