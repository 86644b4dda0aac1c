"""LoRA over FP8, which the method names."""

import pytest

from calculator.bases import QuantizationConfig
from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

CONFIG = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 3000,
}
NAMED = {"quant_method": "fp8"}


def answered(base=NAMED, stated=None, gpu=None, **changes):
    model = {"config": CONFIG if stated is None else {**CONFIG, "quantization_config": stated}}
    method = {"name": "lora", "quantization_config": base, **changes.pop("method", {})}
    training = {"sequence_length": 128, **changes}
    body = {"model": model, "method": method, "training": training, "device": {"gpu": gpu}, "reserved": "rule"}
    return estimate(parse_request(body))


def components(answer):
    return {component.name: component.bytes for component in answer.memory.components}


def test_a_weight_is_one_byte_and_each_block_has_a_scale():
    parts = components(answered())
    dense = components(answered(None))["base_weights"]
    weights = 3 * 256 * (4 * 256 + 3 * 768)
    outside = 4 * (2 * 3000 * 256 + 7 * 256)  # prepare_model_for_kbit_training casts them
    assert parts["base_weights"] == pytest.approx(weights + outside, rel=1e-3)
    assert dense == pytest.approx(2 * weights + outside / 2, rel=1e-3)
    assert parts["quantization_constants"] == 3 * 7 * 512  # fewer than 128 scales each


def test_one_scale_for_a_weight_quantizes_the_input():
    whole = answered({**NAMED, "weight_block_size": None}).memory
    blocks = answered({**NAMED, "weight_block_size": [256, 256]}).memory
    assert whole.peak_allocated_bytes == blocks.peak_allocated_bytes  # not at the peak, which is at the loss


def test_the_config_of_a_checkpoint_in_fp8_has_the_settings_if_the_method_keeps_it():
    stated = {**NAMED, "weight_block_size": [64, 64], "activation_scheme": "static"}
    answer = answered(NAMED, stated)
    assert answer.method.quantization_config == QuantizationConfig(
        quant_method="fp8", weight_block_size=(64, 64), activation_scheme="static"
    )
    dequantized = answered(None, stated)
    assert any("FineGrainedFP8Config(dequantize=True)" in warning for warning in dequantized.warnings)
    assert not any("dequantize=True" in warning for warning in answer.warnings)


@pytest.mark.parametrize(
    ("changes", "loc", "why"),
    [
        ({"base": {**NAMED, "weight_block_size": [100, 100]}}, "weight_block_size", "blocks of 100 and 100"),
        ({"base": {**NAMED, "weight_block_size": [64]}}, "weight_block_size", "two positive numbers"),
        ({"method": {"bias": "all"}}, "method.bias", "no gradient of a bias"),
        ({"method": {"use_dora": True}}, "method.use_dora", "DoRA"),
        ({"adapter_dtype": "model"}, "training.adapter_dtype", "use float32"),
        ({"gpu": "A100 80GB"}, "quant_method", "compute capability 8.9"),
        ({"stated": {**NAMED, "scale_fmt": "ue8m0"}}, "scale_fmt", "not modeled"),
        ({"stated": {"quant_method": "mxfp4"}}, "quant_method", "the config.json states mxfp4"),
    ],
    ids=str,
)
def test_methods_that_fp8_does_not_train_are_refused(changes, loc, why):
    with pytest.raises(PlanError) as caught:
        answered(**changes)
    problem = next(problem for problem in caught.value.problems if why in problem.msg)
    assert problem.loc.endswith(loc)
