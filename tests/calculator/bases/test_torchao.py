"""LoRA over torchao's weights in 8 bits."""

import pytest

from calculator.bases import config_json
from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

STATED = {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_data": {}}}}


def answered(method=None, **training):
    lora = {"name": "lora", "quantization_config": {"quant_method": "torchao"}, **(method or {})}
    settings = {"sequence_length": 512, "gradient_checkpointing": True, **training}
    body = {"model": "Qwen/Qwen2.5-7B-Instruct", "method": lora, "training": settings, "reserved": "rule"}
    return estimate(parse_request(body))


def test_a_weight_is_one_byte_and_each_output_has_a_scale():
    components = {
        component.name: component.bytes for component in answered({"target_modules": "all-linear"}).memory.components
    }
    weights = 28 * 3584 * (2 * 3584 + 2 * 512 + 3 * 18_944)
    outside = 2 * (2 * 152_064 * 3584 + (2 * 28 + 1) * 3584 + 28 * (3584 + 2 * 512))
    assert components["base_weights"] == pytest.approx(weights + outside, rel=1e-5)
    assert components["quantization_constants"] == 28 * 4 * (3 * 3584 + 2 * 512 + 2 * 18_944)


def test_groups_dora_and_a_bias_of_b_are_refused():
    for changes, name in (
        ({"quantization_config": {"quant_method": "torchao", "group_size": 32}}, "group_size"),
        ({"use_dora": True}, "use_dora"),
        ({"lora_bias": True}, "lora_bias"),
    ):
        with pytest.raises(PlanError, match=name):
            answered(changes)


def test_only_its_8_bits_are_read_from_a_config():
    assert config_json.read(STATED) is not None
    assert config_json.read({"quant_method": "torchao", "quant_type": "int8_weight_only"}) is not None
    four = {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}}
    assert config_json.read(four) is None
    (problem,) = config_json.problems(four, None, low_rank=True)
    assert problem.loc == "model.config.quantization_config.quant_type"
    assert "Int8WeightOnlyConfig and Float8WeightOnlyConfig are modeled" in problem.msg


def test_floats_of_8_bits_are_read_and_dequantized_in_float32():
    stated = {"quant_method": "torchao", "quant_type": {"default": {"_type": "Float8WeightOnlyConfig"}}}
    base = config_json.read(stated)
    assert base is not None
    assert base.quant_type == "Float8WeightOnlyConfig"
    floats = {"quant_method": "torchao", "quant_type": "Float8WeightOnlyConfig"}
    integers, other = answered(), answered({"quantization_config": floats})
    resident = [
        {
            component.name: component.bytes
            for component in answer.memory.components
            if component.name in ("base_weights", "workspace")
        }
        for answer in (integers, other)
    ]
    assert resident[0]["base_weights"] == resident[1]["base_weights"]
    assert resident[1]["workspace"] == 3584 * 18_944 * (4 + 4)  # of the largest weight: two copies in float32
    assert other.method.title == "LoRA over torchao float8"
    assert other.method.base.loading == "TorchAoConfig(quant_type=Float8WeightOnlyConfig())"
