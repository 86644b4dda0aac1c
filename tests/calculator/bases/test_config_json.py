"""The quantization_config of a model's config.json: read, dequantized, or refused with its name."""

import pytest

from calculator.bases import BASES, QuantizationConfig, config_json
from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 3000,
}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": True, "sym": True, "damp_percent": 0.1}
NAMES = ["q_proj", "v_proj"]


def answered(stated, method=None, **changes):
    config = LLAMA if stated is None else {**LLAMA, "quantization_config": stated}
    body = {"model": {"config": config}, "method": method or {"name": "lora"}, "reserved": "rule", **changes}
    return estimate(parse_request(body))


def refused(stated, method=None, **changes):
    with pytest.raises(PlanError) as caught:
        answered(stated, method, **changes)
    return caught.value.problems[0]


def test_lora_trains_over_the_base_that_the_config_states():
    stated = answered(GPTQ)
    config = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": True}
    assert stated.memory == answered(None, {"name": "lora", "quantization_config": config}).memory
    assert stated.method.quantization_config == QuantizationConfig(**config)


@pytest.mark.parametrize(
    "method", [{"name": "full"}, {"name": "qlora"}, {"name": "lora", "load_in_8bit": True}], ids=str
)
def test_other_methods_over_such_a_base_are_refused(method):
    problem = refused(GPTQ, method)
    assert problem.loc == "model.config.quantization_config.quant_method"
    assert "lora without load_in_8bit" in problem.msg


@pytest.mark.parametrize(
    ("stated", "loc", "why"),
    [
        ({"quant_method": "vptq"}, ".quant_method", "a base in vptq: transformers does not train over it"),
        ({"quant_method": "no_such"}, ".quant_method", "no known format"),
        ({**GPTQ, "dynamic": {"-:.*down.*": {}}}, ".dynamic", "not modeled"),
        ({**GPTQ, "bits": "4"}, ".bits", "whole number"),
        ("gptq", "", "must be an object"),
    ],
    ids=str,
)
def test_a_base_that_is_not_modeled_is_refused_by_its_name(stated, loc, why):
    problem = refused(stated)
    assert problem.loc == f"model.config.quantization_config{loc}"
    assert why in problem.msg


@pytest.mark.parametrize("name", config_json.DEQUANTIZED)
def test_a_checkpoint_that_is_dequantized_for_training_has_an_assumption(name):
    answer = answered({"quant_method": name}, {"name": "full"})
    (line,) = [warning for warning in answer.warnings if name in warning]
    assert "dequantize=True" in line
    assert answer.memory == answered(None, {"name": "full"}).memory


def test_a_choice_against_the_config_is_refused():
    assert refused(None, {"name": "lora", "quantization_config": {"bits": 8}}).loc.endswith("quant_method")
    both = {"name": "lora", "load_in_8bit": True, "quantization_config": {"quant_method": "gptq"}}
    assert refused(None, both).loc == "method.load_in_8bit"


def test_every_base_has_one_reason_to_be_read_or_refused():
    assert not BASES.keys() & config_json.REFUSED.keys()
    assert not config_json.REFUSED.keys() & config_json.DEQUANTIZED.keys()
    assert BASES.keys() & config_json.DEQUANTIZED.keys() == {"fp8"}  # kept where the method names it
