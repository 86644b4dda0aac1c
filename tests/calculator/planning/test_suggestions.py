"""Suggestions that save memory: each is the plan changed, with its saving and its price."""

import pytest

from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.planning.suggestions import LEAST_SHARE, suggestions, with_changes

LLAMA = {"model": "meta-llama/Llama-3.1-8B", "device": {"gpu": "rtx-4090"}}
PLANS = {
    "qlora": {**LLAMA, "method": {"name": "qlora", "r": 16, "target_modules": "all-linear"}},
    "lora": {
        **LLAMA,
        "method": {"name": "lora"},
        "training": {"micro_batch_size": 4, "attention": "eager", "dtype": "float32"},
    },
    "full": {**LLAMA, "method": {"name": "full"}, "training": {"gradient_checkpointing": True}},
    "prompt": {"model": "gpt2", "method": {"name": "prompt"}},
}


def found(body):
    request = parse_request(body)
    return request, suggestions(request, estimate(request))


@pytest.mark.parametrize("name", PLANS)
def test_a_saving_is_the_difference_in_required_memory(name):
    request, suggested = found(PLANS[name])
    before = estimate(request).memory.required_bytes
    assert len(suggested) >= 2
    for suggestion in suggested:
        after = estimate(suggestion.request)
        assert after.memory == suggestion.estimate.memory
        assert suggestion.saved_bytes == before - after.memory.required_bytes >= LEAST_SHARE * before
        assert suggestion.rule.statement
        assert suggestion.rule.source
    savings = [suggestion.saved_bytes for suggestion in suggested]
    assert savings == sorted(savings, reverse=True)


def changes(body):
    return [dict(suggestion.changes) for suggestion in found(body)[1]]


def test_each_method_gets_suggestions_that_it_can_follow():
    assert {"method.name": "qlora"} in changes(PLANS["lora"])
    assert {"training.attention": "sdpa"} in changes(PLANS["lora"])
    assert {"method.prepare_model_for_kbit_training": False} in changes(PLANS["qlora"])
    assert {"method.r": 8} in changes(PLANS["qlora"])
    assert not any("method.r" in change for change in changes(PLANS["prompt"]))
    assert [change["method.name"] for change in changes(PLANS["full"]) if "method.name" in change] == ["qlora", "lora"]


def test_the_rules_that_no_plan_follows_are_followed_here():
    thrifty = {"name": "qlora", "double_quant": False, "target_modules": "all-linear", "r": 256}
    bodies = (*PLANS.values(), {**LLAMA, "method": thrifty, "training": {"optimizer": "adamw_8bit"}})
    used = {suggestion.rule.name for body in bodies for suggestion in found(body)[1]}
    rules = {"double_quantisation", "fused_attention", "fused_optimizer", "half_precision", "paged_states"}
    assert {*rules, "shorter_sequences"} <= used


#: Runs of a trainer, and the rules of what it can change.
OF_TRAINERS = [
    ({"dtype": "float32", "autocast": "bfloat16"}, "1.16", {"loaded_in_half_precision", "liger_kernels"}),
    ({"loss_type": "nll", "gradient_checkpointing": True}, "1.9", {"fused_head", "loss_in_chunks"}),
    ({"padding": True, "attention": "eager"}, "1.16", {"packed_rows"}),
    ({"trainer": "transformers"}, "1.16", {"cut_cross_entropy", "liger_kernels"}),
    ({"trainer": "transformers", "padding": True, "attention": "eager"}, "1.16", {"flattened_batches"}),
]


@pytest.mark.parametrize(("training", "trl", "rules"), OF_TRAINERS)
def test_a_trainers_settings_are_suggested(training, trl, rules):
    body = {"model": "Qwen/Qwen2.5-0.5B", "method": {"name": "lora"}, "stack": {"trl": trl}, "reserved": "rule"}
    training = {"trainer": "trl-sft", "micro_batch_size": 4, **training}
    assert rules <= {suggestion.rule.name for suggestion in found({**body, "training": training})[1]}


def test_torchtunes_step_in_the_backward_pass_is_suggested():
    training = {"trainer": "torchtune", "adapter_dtype": "model"}
    body = {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "full"}, "training": training, "reserved": "rule"}
    assert "step_in_backward" in {suggestion.rule.name for suggestion in found(body)[1]}


def test_settings_in_use_and_refused_ones_are_not_suggested():
    assert {"training.gradient_checkpointing": True} not in changes(PLANS["full"])
    assert {"training.gradient_checkpointing": True} not in changes({**LLAMA, "method": {"name": "prefix"}})


def test_recomputation_costs_a_forward_pass_and_a_halved_batch_nothing():
    costs = {str(dict(suggestion.changes)): suggestion.cost for suggestion in found(PLANS["lora"])[1]}
    assert 1.2 < costs["{'training.gradient_checkpointing': True}"] < 1.5
    assert costs["{'training.micro_batch_size': 2, 'training.gradient_accumulation_steps': 2}"] == pytest.approx(1)


def test_a_new_method_keeps_the_settings_that_both_have():
    request = parse_request({**LLAMA, "method": {"name": "lora", "r": 32, "target_modules": ["q_proj"]}})
    method = with_changes(request, {"method.name": "qlora"}).method
    assert (method.name, method.r, method.target_modules) == ("qlora", 32, ("q_proj",))


def test_textbook_accounting_has_no_suggestions():
    assert (
        found({"model": {"parameters": 7_000_000_000}, "method": {"name": "full"}, "accounting": "textbook"})[1] == ()
    )


def test_a_trainers_loss_kernels_packing_and_weights_in_half_precision_are_suggested():
    training = {"trainer": "trl-sft", "autocast": "bfloat16", "dtype": "float32", "gradient_checkpointing": True}
    small = {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "lora"}, "reserved": "rule"}
    older = {**training, "micro_batch_size": 4, "padding": True}
    by_name = changes({**small, "training": training})
    of_all_logits = changes({**small, "training": {**older, "loss_type": "nll"}, "stack": {"trl": "1.9"}})
    packing = changes({**small, "training": {**older, "dtype": "bfloat16"}})
    assert {"training.dtype": "bfloat16"} in by_name
    assert {"training.dtype": "bfloat16", "training.autocast": None} not in by_name
    assert {"training.loss_type": "chunked_nll"} in of_all_logits
    assert {"stack.trl": "1.16"} in of_all_logits
    flash = {"training.attention": "flash_attention_2", "training.padding": False}
    assert {"training.packing": True, **flash} in packing
    plain = {**training, "trainer": "transformers"}
    assert {"training.use_liger_kernel": True} in changes({**small, "training": plain})
    assert not any(
        "training.use_liger_kernel" in change for change in changes({**small, "training": {"dtype": "float32"}})
    )
