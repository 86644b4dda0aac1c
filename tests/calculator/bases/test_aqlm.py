"""LoRA over AQLM, whose checkpoints have codes and code books."""

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
DENSE = ["model.layers.0.input_layernorm.weight", "lm_head.weight", "lm_head"]
STATED = {"quant_method": "aqlm", "num_codebooks": 2, "nbits_per_codebook": 8, "linear_weights_not_to_quantize": DENSE}


def answered(base=None, stated=None, model=None, **training):
    config = {**LLAMA, **(model or {}), **({"quantization_config": stated} if stated else {})}
    quantized = {"quantization_config": {"quant_method": "aqlm", **(base or {})}} if stated is None else {}
    body = {
        "model": {"config": config},
        "method": {"name": "lora", "target_modules": ["q_proj"], **quantized},
        "training": {"sequence_length": 128, **training},
        "reserved": "rule",
    }
    return estimate(parse_request(body))


@pytest.mark.parametrize(("books", "bits", "in_8"), [(1, 16, 2), (2, 8, 2), (1, 8, 1)])
def test_a_code_encodes_8_weights_and_each_layer_has_its_code_books(books, bits, in_8):
    found = answered({"num_codebooks": books, "nbits_per_codebook": bits}).memory
    parts = {component.name: component.bytes for component in found.components}
    weights, outside = 3 * 256 * (4 * 256 + 3 * 768), 2 * (2 * 3000 * 256 + 7 * 256)
    assert parts["base_weights"] == pytest.approx(weights * in_8 / 8 + outside, rel=1e-3)
    scales = 3 * (5 * 512 + 2 * 2 * 768)
    assert parts["quantization_constants"] == scales + 3 * 7 * books * 2**bits * 8 * 2


def test_a_checkpoint_has_the_settings_and_its_head_is_dense():
    answer = answered(stated=STATED)
    assert answer.memory == answered({"num_codebooks": 2, "nbits_per_codebook": 8}).memory
    assert any("leaves the scales" in warning for warning in answer.warnings)


@pytest.mark.parametrize(
    ("changes", "loc", "why"),
    [
        ({"base": {"num_codebooks": 4}}, "num_codebooks", "2 of 8 bits"),
        ({"dtype": "float32"}, "training.dtype", "float16 and bfloat16"),
        ({"model": {"attention_bias": True}}, "quant_method", "adds to the gradient"),
        (
            {"model": {"model_type": "mixtral", "num_local_experts": 4, "num_key_value_heads": 4}},
            "quant_method",
            "use gptq or qlora",
        ),
        ({"sequence_length": 6}, "sequence_length", "more than 6 tokens"),
        ({"stated": {**STATED, "linear_weights_not_to_quantize": DENSE[:2]}}, "not_to_quantize", 'add "lm_head"'),
        ({"stated": {**STATED, "linear_weights_not_to_quantize": [*DENSE, "q_proj"]}}, "not_to_quantize", "except"),
        ({"stated": {**STATED, "in_group_size": 16}}, "in_group_size", "for 8 inputs"),
    ],
    ids=str,
)
def test_methods_that_aqlm_does_not_train_are_refused(changes, loc, why):
    with pytest.raises(PlanError) as caught:
        answered(**changes)
    problem = next(problem for problem in caught.value.problems if why in problem.msg)
    assert problem.loc.endswith(loc)
