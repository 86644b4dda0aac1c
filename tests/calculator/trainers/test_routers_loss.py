"""The loss of routers that TRL's trainers add."""

import pytest

from calculator import catalogue
from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

MIXTRAL = {
    "model_type": "mixtral",
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
}
DEEPSEEK = {
    "model_type": "deepseek_v3",
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "q_lora_rank": 64,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
}


def answer(config, trainer="trl-sft", stack=None, method=None):
    training = {"trainer": trainer, "sequence_length": 128, "micro_batch_size": 2}
    method = method or {"name": "lora", "target_modules": ["o_proj"]}
    return estimate(
        parse_request({"model": {"config": config}, "method": method, "training": training, "stack": stack or {}})
    )


def mentions_coefficient(answered):
    return any("router_aux_loss_coef" in assumption for assumption in answered.assumptions)


@pytest.mark.parametrize("trainer", ["trl-sft", "trl-dpo", "trl-kto", "trl-grpo", "trl-rloo"])
def test_the_loss_is_added_unless_its_coefficient_is_0(trainer):
    assert mentions_coefficient(answer(MIXTRAL, trainer))
    assert not mentions_coefficient(answer({**MIXTRAL, "router_aux_loss_coef": 0.0}, trainer))


def test_the_logits_of_the_routers_stay_in_memory():
    with_loss, without = (answer({**MIXTRAL, "router_aux_loss_coef": coefficient}) for coefficient in (0.02, 0.0))
    assert with_loss.memory.peak_allocated_bytes > without.memory.peak_allocated_bytes


def test_a_family_that_declares_no_coefficient_has_no_such_loss():
    assert not mentions_coefficient(answer(DEEPSEEK))
    with pytest.raises(PlanError, match=r"router_aux_loss_coef: the routers' loss that SFTTrainer adds to deepseek_v3"):
        answer({**DEEPSEEK, "router_aux_loss_coef": 0.001})


def test_sfttrainer_turns_the_configs_own_loss_off_too():
    asked = answer({**MIXTRAL, "output_router_logits": True, "router_aux_loss_coef": 0.0})
    assert asked.memory == answer({**MIXTRAL, "router_aux_loss_coef": 0.0}).memory


def test_older_releases_add_it_only_if_the_config_asks_for_it():
    assert not mentions_coefficient(answer(MIXTRAL, stack={"trl": "1.0"}))
    with pytest.raises(PlanError, match=r"output_router_logits: with SFTTrainer of TRL 1\.0 it is not modeled"):
        answer({**MIXTRAL, "output_router_logits": True}, stack={"trl": "1.0"})
    with pytest.raises(PlanError, match=r"SFTTrainer adds to mixtral is not modeled"):
        answer(MIXTRAL, stack={"trl": "1.9"})


@pytest.mark.parametrize("family", ["granitemoehybrid", "nemotron_h"])
def test_hybrids_with_experts_name_the_setting_of_the_routers_loss(family):
    model = next(model for model in catalogue.models() if model.config["model_type"] == family)
    training = {"trainer": "trl-sft", "sequence_length": 128}
    body = {"model": model.id, "method": {"name": "full"}, "training": training, "reserved": "rule"}
    if family == "nemotron_h":
        assert not mentions_coefficient(estimate(parse_request(body)))
    else:
        with pytest.raises(PlanError, match=r"router_aux_loss_coef: SFTTrainer reads num_experts"):
            estimate(parse_request(body))


@pytest.mark.parametrize("trainer", ["trl-sft", "trl-dpo", "trl-kto"])
def test_it_fails_with_the_longer_mask_of_prefix_tuning(trainer):
    prefix = {"name": "prefix", "num_virtual_tokens": 2}
    with pytest.raises(PlanError, match=r"router_aux_loss_coef: the routers' loss that \w+ adds fails with the mask"):
        answer(MIXTRAL, trainer, method=prefix)
    assert answer({**MIXTRAL, "router_aux_loss_coef": 0.0}, trainer, method=prefix)


#: The sizes of models of which no layer has experts.
TWO_LAYERS = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize("trainer", ["trl-sft", "trl-dpo", "trl-kto", "trl-grpo", "trl-rloo"])
def test_it_fails_if_no_layer_has_experts(trainer):
    qwen3 = {
        "model_type": "qwen3_moe",
        **TWO_LAYERS,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "mlp_only_layers": [0, 1],
    }
    with pytest.raises(PlanError, match=r"router_aux_loss_coef: no layer of this qwen3_moe has experts"):
        answer(qwen3, trainer)
    assert answer({**qwen3, "router_aux_loss_coef": 0.0}, trainer)
    assert answer(qwen3, "trl-orpo")


def test_no_layer_of_ernie_has_experts_if_none_is_a_multiple_of_the_interval():
    ernie = {
        "model_type": "ernie4_5_moe",
        **TWO_LAYERS,
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_layer_interval": 7,
    }
    with pytest.raises(PlanError, match=r"router_aux_loss_coef: no layer of this ernie4_5_moe has experts"):
        answer(ernie, "trl-kto")
    assert answer({**ernie, "moe_layer_interval": 2}, "trl-kto")
