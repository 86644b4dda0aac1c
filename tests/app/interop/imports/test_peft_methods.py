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
    "lora": {
        "rank_pattern": {"q_proj": 4, "layers.3.self_attn.v_proj": 32},
        "alpha_pattern": {"q_proj": 8},
        "target_modules": ["q_proj"],
        "layers_to_transform": [3, 4],
        "layers_pattern": ["layers"],
        "init_lora_weights": "pissa",
        "trainable_token_indices": [5, 6],
        "use_bdlora": {
            "target_modules_bd_a": None,
            "target_modules_bd_b": ["q_proj"],
            "nblocks": 2,
            "match_strict": True,
        },
    },
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
    "fourierft": {"n_frequency": 50, "bias": "fourier_only", "exclude_modules": ["v_proj"]},
    "waveft": {"n_frequency": 50, "wavelet_family": "coif2", "use_idwt": False, "bias": "waveft_only"},
    "trainable_tokens": {"token_indices": [5, 6, 7]},
    "p_tuning": {"encoder_hidden_size": 128},
    "deft": {"r": 4, "alpha": 16, "para": True, "bias": "deft_only"},
    "vblora": {"r": 2, "num_vectors": 90, "vector_length": 128, "topk": 3, "exclude_modules": ["v_proj"]},
    "pvera": {"r": 64, "pvera_dropout": 0.1, "save_projection": False},
    "adalora": {"init_r": 6, "total_step": 100, "tinit": 10, "tfinal": 20, "lora_dropout": 0.1, "bias": "all"},
    "tinylora": {"r": 4, "u": 8, "weight_tying": 1.0, "save_projection": False},
    "osf": {"effective_rank": 0.9, "rank_pattern": {"q_proj": 64}, "target_modules": ["q_proj"]},
    "adamss": {"r": 50, "num_subspaces": 3, "subspace_rank": 2, "target_modules": ["q_proj"]},
    "adaption_prompt": {"adapter_len": 100, "adapter_layers": 28},
    "peanut": {"r": 4, "depth": 2, "act_fn": "tanh", "exclude_modules": ["v_proj"]},
    "glora": {"r": 4, "config_A_B": "vector", "config_C": "none", "config_D_E": "vector", "bias": "glora_only"},
    "psoft": {"r": 8, "psoft_svd": "lowrank", "use_cayley_neumann": True, "num_cayley_neumann_terms": 3},
    "boft": {"boft_block_size": 8, "bias": "boft_only", "exclude_modules": ["v_proj"]},
    "shira": {"r": 8, "modules_to_save": ["lm_head"]},
    "c3a": {"block_size": 64, "bias": "c3a_only"},
    "lily": {"r": 8, "stride_A": 2, "num_B": 3, "scaling": 0.5},
    "unilora": {"r": 8, "theta_d_length": 1000, "unilora_dropout": 0.1, "save_indices": True},
    "xlora": {"hidden_size": 4096, "xlora_depth": 3, "top_k_lora": 1, "layerwise_scalings": True},
    "lokr": {"decompose_both": True, "decompose_factor": 8, "modules_to_save": ["lm_head"]},
}

#: What an X-LoRA's file has in another form than a request, or not at all.
OF_ADAPTERS = {"adapters": ["adapter_0", "adapter_1"], "r": 8, "lora_dropout": 0.0, "target_modules": None}


def imported(tmp_path, name, settings):
    config = getattr(peft, METHODS[name].facts.config_class)
    config(base_model_name_or_path=LLAMA, task_type="CAUSAL_LM", **settings).save_pretrained(tmp_path)
    return read(json.loads((tmp_path / "adapter_config.json").read_text()))


@pytest.mark.filterwarnings("ignore:Specified to not save")
@pytest.mark.parametrize("name", NAMES)
def test_the_file_of_a_method_is_read_completely(name, tmp_path):
    settings = config_arguments(METHODS[name]()) | OTHER.get(name, {})
    found = imported(tmp_path, name, settings)
    of_adapters = OF_ADAPTERS if name == "xlora" else {}
    assert found.request["method"] == {"name": name, **settings, **of_adapters}
    assert [remark.key for remark in found.not_understood] == [*["adapters"][: len(of_adapters)], "quantization_config"]


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ({"layers_to_transform": 5}, {"layers_to_transform": [5]}),
        (
            {"layers_to_transform": 5, "layers_pattern": "layers"},
            {"layers_to_transform": [5], "layers_pattern": ["layers"]},
        ),
        ({"init_lora_weights": "pissa_niter_32"}, {"init_lora_weights": "pissa_niter_16"}),
        ({"lora_bias": True}, {"lora_bias": True}),
        ({"trainable_token_indices": {"embed_tokens": [1, 2]}}, {"trainable_token_indices": [1, 2]}),
    ],
)
def test_other_spellings_of_loras_settings_are_read(written, read_as, tmp_path):
    settings = {"target_modules": ["q_proj"], **written}
    found = imported(tmp_path, "lora", settings)
    assert found.request["method"] == {"name": "lora", **config_arguments(METHODS["lora"]()), **settings, **read_as}
    assert [remark.key for remark in found.not_understood] == ["quantization_config"]


def test_bone_is_read_as_miss_its_later_name():
    settings = {"r": 16, "init_weights": "bat", "target_modules": ["q_proj"], "bias": "none", "exclude_modules": None}
    file = {"peft_type": "BONE", "base_model_name_or_path": LLAMA, "task_type": "CAUSAL_LM", **settings}
    method = read(json.dumps(file)).request["method"]
    assert (method["name"], method["r"], method["init_weights"]) == ("miss", 16, "bat")
