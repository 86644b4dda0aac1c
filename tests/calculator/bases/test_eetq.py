"""LoRA over EETQ, which quantizes linear layers to 8 bits as they are loaded."""

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


def answered(model=None, method=None, gpu=None, **training):
    lora = {"name": "lora", "target_modules": ["q_proj"], "quantization_config": {"quant_method": "eetq"}}
    body = {
        "model": {"config": {**LLAMA, **(model or {})}},
        "method": {**lora, **(method or {})},
        "training": {"sequence_length": 128, "dtype": "float16", **training},
        "device": {"gpu": gpu},
        "reserved": "rule",
    }
    return estimate(parse_request(body))


def test_a_weight_is_one_byte_and_each_output_has_a_scale():
    parts = {component.name: component.bytes for component in answered().memory.components}
    weights, outside = 3 * 256 * (4 * 256 + 3 * 768), 2 * (2 * 3000 * 256 + 7 * 256)
    assert parts["base_weights"] == pytest.approx(weights + outside, rel=1e-3)
    assert parts["quantization_constants"] == 3 * (5 * 512 + 2 * 2 * 768)


def test_the_backward_pass_dequantizes_with_an_identity_matrix():
    side = 4096
    wide = answered({"hidden_size": side, "vocab_size": 64}, sequence_length=16).memory
    rows = {row.name.rpartition(": ")[2]: row.bytes for part in wide.components for row in part.rows}
    assert wide.peak_phase == "backward"
    assert rows["identity matrix"] == 2 * rows["identity matrix in float32"] / 4 == 2 * side * side


@pytest.mark.parametrize(
    ("changes", "loc", "why"),
    [
        ({"dtype": "bfloat16"}, "training.dtype", "use float16"),
        ({"autocast": "float16"}, "training.autocast", "leave autocast out"),
        ({"model": {"intermediate_size": 700}}, "quant_method", "multiples of 64"),
        ({"method": {"bias": "all"}}, "method.bias", "no gradient of a bias"),
        ({"method": {"target_modules": "all-linear"}}, "target_modules", "list q_proj"),
        ({"gpu": "H100 SXM5 80 GB"}, "quant_method", "less than 9.0"),
    ],
    ids=str,
)
def test_methods_that_eetq_does_not_train_are_refused(changes, loc, why):
    with pytest.raises(PlanError) as caught:
        answered(**changes)
    problem = next(problem for problem in caught.value.problems if why in problem.msg)
    assert problem.loc.endswith(loc)
