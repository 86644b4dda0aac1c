"""Plans, comparisons and limits over a base that a config.json states."""

import pytest

from calculator.common.errors import PlanError
from calculator.comparison.methods import compare, parse_comparison
from calculator.limit_search.limits import limit, parse_limit
from calculator.planning.plan import plan
from calculator.planning.request import parse_plan

MODEL = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}
TORCHAO = {"quant_method": "torchao", "quant_type": "int8_weight_only"}


def over(base):
    return {"config": {**MODEL, "quantization_config": base}}


def planned(base, **needs):
    body = {
        "model": over(base),
        "device": {"gpu": "RTX 4090"},
        "needs": {"sequence_length": 512, **needs},
        "reserved": "rule",
    }
    return plan(parse_plan(body)).plans[0]


@pytest.mark.parametrize(
    ("base", "dtype", "names"),
    [(GPTQ, "bfloat16", LINEAR), (AWQ, "float16", LINEAR), (TORCHAO, "bfloat16", "all-linear")],
    ids=lambda value: value.get("quant_method") if isinstance(value, dict) else None,
)
def test_a_plan_trains_lora_over_the_base(base, dtype, names):
    found = planned(base)
    first = found.configurations[0]
    assert first.request.method.name == "lora"
    assert first.request.method.quantization_config.quant_method == base["quant_method"]
    assert (first.request.training.dtype, first.request.method.target_modules) == (dtype, names)
    assert {exclusion.method for exclusion in found.ruled_out} >= {"full", "qlora", "adapter"}


def test_the_reasons_of_a_base_say_what_it_can_not():
    reasons = {reason.rule.name: reason.sentence for reason in planned(AWQ).configurations[0].reasons}
    assert reasons["base_in_float16"] == "transformers loads a base in AWQ in float16."
    assert reasons["unmergeable_base"] == "PEFT does not merge it into a base in AWQ."
    assert reasons["all_linear"].startswith("Adapts every linear layer")
    assert "merges" in {reason.rule.name for reason in planned(TORCHAO).configurations[0].reasons}


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        ({"must_merge": True}, r"needs\.must_merge: PEFT merges no LoRA into a base in GPTQ"),
        ({"tasks": 3, "switch_per_request": True}, r"needs\.switch_per_request: serving a base in GPTQ"),
    ],
)
def test_needs_that_a_base_can_not_meet_are_refused(needs, reason):
    with pytest.raises(PlanError, match=reason):
        planned(GPTQ, **needs)


def test_a_limit_is_that_of_the_base():
    body = {"model": over(GPTQ), "method": {"name": "lora", "target_modules": ["q_proj"]}, "solve_for": "r"}
    found = limit(parse_limit({**body, "device": {"gpu": "RTX 4090"}, "reserved": "rule"})).at
    assert found is not None
    assert found.value > 8
    assert found.estimate.method.quantization_config.quant_method == "gptq"


def test_a_comparison_has_lora_over_the_base_and_why_others_are_refused():
    rows = compare(parse_comparison({"model": over(GPTQ), "device": {"gpu": "RTX 4090"}, "reserved": "rule"}))
    found = {row.method.name: row for row in rows}
    assert found["lora"].estimate is not None
    assert "lora without load_in_8bit is modeled" in found["qlora"].problems[0].msg
