"""GLoRA's paths that get no gradient."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

#: A model of which only the vision tower's embedder has biases. Texts do not run it.
CONFIG = {
    "model_type": "gemma4_unified",
    "text_config": {
        "vocab_size": 95271,
        "hidden_size": 380,
        "intermediate_size": 3904,
        "num_hidden_layers": 3,
        "num_attention_heads": 5,
        "num_key_value_heads": 5,
        "head_dim": 96,
        "global_head_dim": 192,
        "layer_types": ["full_attention", "full_attention", "full_attention"],
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "pad_token_id": 3,
        "num_global_key_value_heads": None,
        "num_experts": 8,
        "top_k_experts": 2,
        "moe_intermediate_size": 24,
        "sliding_window": 1024,
        "num_kv_shared_layers": 1,
        "hidden_size_per_layer_input": 16,
        "vocab_size_per_layer_input": 95271,
        "final_logit_softcapping": None,
        "use_bidirectional_attention": "vision",
    },
    "vision_config": {"patch_size": 4, "pooling_kernel_size": 2, "mm_embed_dim": 7, "output_proj_dims": 7},
    "audio_config": None,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize("sharding", ["none", "zero2"])
def test_paths_of_biases_that_texts_do_not_reach_are_refused(sharding):
    method = {"name": "glora", "config_A_B": "none", "config_C": "none", "target_modules": "all-linear"}
    body = {
        "model": {"config": CONFIG},
        "method": method,
        "training": {"micro_batch_size": 1, "sequence_length": 64, "dtype": "float32"},
        "device": {"count": 1 if sharding == "none" else 4, "sharding": sharding},
    }
    with pytest.raises(PlanError, match=r"method\.config_A_B: no path gets a gradient.*: set it to lora"):
        estimate(parse_request(body))
    estimate(parse_request({**body, "method": {**method, "config_A_B": "lora"}}))
