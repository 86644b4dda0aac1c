"""LoRA over HQQ, which the package hqq quantizes."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 3000,
}
OPT = {
    "model_type": "opt",
    "vocab_size": 1000,
    "hidden_size": 256,
    "ffn_dim": 768,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
NAMES = ["q_proj", "v_proj"]


def answered(base=None, model=LLAMA, method=None, **training):
    config = {"quant_method": "hqq", **(base or {})}
    lora = {"name": "lora", "target_modules": NAMES, "quantization_config": config, **(method or {})}
    body = {"model": {"config": model}, "method": lora, "training": {"sequence_length": 128, **training}}
    return estimate(parse_request({**body, "reserved": "rule"}))


def components(base):
    return {component.name: component.bytes for component in answered(base).memory.components}


@pytest.mark.parametrize(("bits", "in_a_byte"), [(8, 1), (4, 2), (2, 4)])
def test_weights_are_packed_and_each_group_has_a_scale_and_a_zero_point(bits, in_a_byte):
    parts, weights = components({"bits": bits}), 3 * 256 * (4 * 256 + 3 * 768)
    outside = 2 * (2 * 3000 * 256 + 7 * 256)
    assert parts["base_weights"] == pytest.approx(weights / in_a_byte + outside, rel=1e-3)
    assert parts["quantization_constants"] == 2 * 2 * weights // 64


@pytest.mark.parametrize(
    ("changes", "loc", "why"),
    [
        ({"base": {"bits": 6}}, "bits", "hqq packs 2, 3, 4, 8 bits"),
        ({"base": {"group_size": 12}}, "group_size", "multiples of 8"),
        ({"base": {"group_size": 4096 * 1000}}, "group_size", "at most"),
        ({"method": {"target_modules": "all-linear"}}, "target_modules", "list q_proj"),
        ({"method": {"lora_bias": True}}, "lora_bias", "no bias of B"),
        ({"dtype": "float32", "autocast": "bfloat16"}, "autocast", "without autocast"),
        ({"model": OPT}, "quant_method", "model.layers"),
        ({"model": {**LLAMA, "quantization_config": {"quant_method": "hqq"}}}, "quant_method", "does not load it"),
    ],
    ids=str,
)
def test_settings_that_hqq_does_not_accept_are_refused(changes, loc, why):
    with pytest.raises(PlanError) as caught:
        answered(**changes)
    problem = next(problem for problem in caught.value.problems if why in problem.msg)
    assert problem.loc.endswith(loc)


@pytest.mark.parametrize(
    ("name", "way_out"), [("mxfp4", "dequantize=True"), ("bitsandbytes", "qlora"), ("fbgemm_fp8", "fp8")]
)
def test_other_formats_are_refused_with_a_solution(name, way_out):
    with pytest.raises(PlanError, match=way_out):
        answered({"quant_method": name})
