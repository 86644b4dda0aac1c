"""LoRA on the weights of fused experts: what PEFT refuses, and what it calls the parameters."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.methods.low_rank.parameters import wrapped_name

EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
MODEL = {
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "vocab_size": 100,
}


def answer(model=MODEL, **method):
    method = {"name": "lora", "r": 4, **method}
    body = {"model": {"config": model}, "method": method, "training": {"sequence_length": 16}, "reserved": "rule"}
    return estimate(parse_request(body))


def test_each_expert_has_its_own_factors():
    added = answer(target_parameters=EXPERTS).parameters.added
    assert added == 2 * 4 * 4 * ((64 + 2 * 32) + (32 + 64))


def test_modules_are_adapted_too_if_they_are_named():
    both = answer(target_parameters=EXPERTS, target_modules=["q_proj"]).parameters.added
    assert both - answer(target_parameters=EXPERTS).parameters.added == 2 * 4 * (64 + 64)


def test_names_of_fused_experts_are_adapted_as_parameters_with_the_ranks_of_both_halves():
    named = answer(target_modules=["q_proj", "gate_proj", "up_proj", "down_proj"])
    as_parameters = answer(target_modules=["q_proj"], target_parameters=EXPERTS, rank_pattern={r".*\.gate_up_proj": 8})
    assert (named.memory, named.saved_bytes) == (as_parameters.memory, as_parameters.saved_bytes)


def test_a_half_of_a_fused_weight_is_refused():
    with pytest.raises(PlanError, match="adapts gate_proj and up_proj of qwen3_moe together"):
        answer(target_modules=["gate_proj", "q_proj"])


def test_all_linear_adapts_routers_too_and_no_head():
    every = answer(target_modules="all-linear").parameters.added
    named = answer(target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    assert every == named.parameters.added + 2 * 4 * (64 + 4)


@pytest.mark.parametrize(
    ("method", "loc", "way_out"),
    [
        ({"target_parameters": ["q_proj.weight"]}, "method.target_parameters", "name mlp.experts.gate_up_proj or"),
        ({"target_parameters": ["layers.0.mlp.experts.down_proj"]}, "method.target_parameters", "picks one layer"),
        ({"target_parameters": EXPERTS, "lora_dropout": 0.1}, "method.lora_dropout", "use 0.0"),
        ({"target_parameters": EXPERTS, "use_dora": True}, "method.use_dora", "use false"),
        ({"target_parameters": EXPERTS, "init_lora_weights": "pissa"}, "method.init_lora_weights", "use true"),
        ({"target_parameters": EXPERTS, "name": "qlora"}, "method.target_parameters", "use lora"),
    ],
)
def test_a_refusal_names_the_field_and_a_solution(method, loc, way_out):
    with pytest.raises(PlanError) as refused:
        answer(**method)
    assert any(problem.loc == loc and way_out in problem.msg for problem in refused.value.problems)


def test_the_inner_wrapper_is_the_base_layer_of_the_outer_one():
    both, one = tuple(EXPERTS), ("gate_up_proj",)
    name = "model.layers.0.mlp.experts.gate_up_proj.lora_A.weight"
    assert wrapped_name(both, name) == "model.layers.0.mlp.experts.base_layer.lora_A.weight"
    assert wrapped_name(one, name) == "model.layers.0.mlp.experts.lora_A.weight"
    router = "model.layers.0.mlp.gate.weight.lora_A.weight"
    assert wrapped_name(("gate.weight", *both), router) == "model.layers.0.mlp.gate.lora_A.weight"
    assert wrapped_name(one, "model.layers.0.self_attn.q_proj.lora_A.weight").endswith("q_proj.lora_A.weight")
