"""Configs on which a family's forward pass fails are refused, with the field named. The real modules fail too."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from validation.tracing.trace import trace

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

SHAPE = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
LATENT = {
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "kv_lora_rank": 16,
    "q_lora_rank": None,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
    "first_k_dense_replace": 1,
}
WHOLE = {**LATENT, "num_key_value_heads": 4}
HALF = {"partial_rotary_factor": 0.5, "rope_parameters": {"rope_type": "linear", "factor": 2.0}}

ROUTED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "output_router_logits": True}

REFUSED = {
    "llama-half": ("model.config.partial_rotary_factor", {"model_type": "llama", **HALF}, {}),
    "deepseek_v2-half": ("model.config.partial_rotary_factor", {"model_type": "deepseek_v2", **WHOLE, **HALF}, {}),
    "gpt_oss-half": (
        "model.config.partial_rotary_factor",
        {"model_type": "gpt_oss", "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, **HALF},
        {},
    ),
    "gemma2-no-window": ("model.config.sliding_window", {"model_type": "gemma2", "sliding_window": None}, {}),
    "olmo3-no-window": ("model.config.sliding_window", {"model_type": "olmo3", "sliding_window": None}, {}),
    "deepseek_v2-groups": ("model.config.num_key_value_heads", {"model_type": "deepseek_v2", **LATENT}, {}),
    "deepseek_v3-groups": (
        "model.config.num_key_value_heads",
        {"model_type": "deepseek_v3", **LATENT, "n_group": 1, "topk_group": 1},
        {"attention": "eager"},
    ),
    "deepseek_v2-wide-values": (
        "training.attention",
        {"model_type": "deepseek_v2", **WHOLE, "v_head_dim": 64},
        {"attention": "flash_attention_2"},
    ),
    "falcon-sequential": (
        "model.config.parallel_attn",
        {"model_type": "falcon", "new_decoder_architecture": True, "parallel_attn": False},
        {},
    ),
    "falcon-no-norm-for-the-mlp": (
        "model.config.num_ln_in_parallel_attn",
        {"model_type": "falcon", "new_decoder_architecture": True, "num_ln_in_parallel_attn": 3},
        {},
    ),
    "falcon-two-norms": (
        "model.config.num_ln_in_parallel_attn",
        {"model_type": "falcon", "num_ln_in_parallel_attn": 2},
        {},
    ),
    "falcon-fewer-keys": (
        "model.config.num_kv_heads",
        {"model_type": "falcon", "multi_query": False, "num_kv_heads": 2},
        {},
    ),
    "qwen3_moe-no-experts": (
        "model.config.output_router_logits",
        {"model_type": "qwen3_moe", **ROUTED, "mlp_only_layers": [0, 1]},
        {},
    ),
}

ANSWERED = {
    "phi-half": ({"model_type": "phi", **HALF}, {}),
    "llama-default": ({"model_type": "llama", "partial_rotary_factor": 0.5}, {}),
    "qwen2_moe-no-window": (
        {
            "model_type": "qwen2_moe",
            "sliding_window": None,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
        },
        {},
    ),
    "deepseek_v2-groups-by-flash": ({"model_type": "deepseek_v2", **LATENT}, {"attention": "flash_attention_2"}),
    "deepseek_v2-wide-values": ({"model_type": "deepseek_v2", **WHOLE, "v_head_dim": 64}, {}),
    "falcon-one-norm": (
        {"model_type": "falcon", "new_decoder_architecture": True, "num_ln_in_parallel_attn": 1, "num_kv_heads": 2},
        {},
    ),
    "falcon-two-norms-in-sequence": (
        {"model_type": "falcon", "num_ln_in_parallel_attn": 2, "parallel_attn": False, "multi_query": False},
        {},
    ),
    "qwen3_moe-one-layer-of-experts": ({"model_type": "qwen3_moe", **ROUTED, "mlp_only_layers": [0]}, {}),
    "deepseek_v2-groups-of-one-width": ({"model_type": "deepseek_v2", **LATENT, "v_head_dim": 32}, {}),
}


def request(config, training):
    types = ["full_attention"] * 2 if config["model_type"] in ("gemma2", "olmo3") else None
    whole = {**SHAPE, **config, **({"layer_types": types} if types else {})}
    return parse_request(
        {"model": {"config": whole}, "method": {"name": "full"}, "training": {"sequence_length": 16, **training}}
    )


@pytest.mark.parametrize(("loc", "config", "training"), REFUSED.values(), ids=REFUSED)
def test_a_config_on_which_the_forward_pass_fails_is_refused(loc, config, training):
    with pytest.raises(PlanError) as refused:
        estimate(request(config, training))
    assert [problem.loc for problem in refused.value.problems] == [loc]
    with pytest.raises((RuntimeError, ValueError, IndexError, AttributeError, NameError)):
        trace(request(config, training))


@pytest.mark.parametrize(("config", "training"), ANSWERED.values(), ids=ANSWERED)
def test_a_similar_config_is_estimated_as_traced(config, training):
    phases = {phase.name: phase.peak_bytes for phase in estimate(request(config, training)).memory.phases}
    assert phases == trace(request(config, training)).phases
