"""LoRA over a base in GPTQ."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

QWEN = "Qwen/Qwen2.5-7B-Instruct"


def body(method=None, **training):
    lora = {"name": "lora", "quantization_config": {"quant_method": "gptq"}, **(method or {})}
    settings = {"dtype": "float16", "sequence_length": 512, **training}
    return {"model": QWEN, "method": lora, "training": settings, "reserved": "rule"}


def test_the_base_has_the_bytes_of_its_checkpoint():
    components = {component.name: component.bytes for component in estimate(parse_request(body())).memory.components}
    weights = 28 * (3584 * (2 * 3584 + 2 * 512 + 3 * 18944)) // 2
    outside = 2 * (2 * 152_064 * 3584 + (2 * 28 + 1) * 3584 + 28 * (3584 + 2 * 512))
    assert components["base_weights"] == pytest.approx(weights + outside, rel=1e-5)
    groups = 28 * (3584 * (2 * 3584 + 2 * 512 + 3 * 18944)) // 128
    columns = 28 * (6 * 3584 + 18944)
    constants = groups * 2.5 + columns * 4 + 28 * 7 * 512  # a scale and a zero point, each column's group, and shifts
    assert components["quantization_constants"] == constants


def test_the_checkpoints_files_have_these_bytes_and_headers():
    """Qwen2.5-Coder-7B-Instruct-GPTQ-Int4: two safetensors files of 3,999,234,216 and 1,576,146,928 bytes.

    Source: https://huggingface.co/api/models/Qwen/Qwen2.5-Coder-7B-Instruct-GPTQ-Int4?blobs=true, seen on 2026-09-01.
    """
    components = {component.name: component.bytes for component in estimate(parse_request(body())).memory.components}
    shifts = 28 * 7 * 512  # no part of the checkpoint
    stored = components["base_weights"] + components["quantization_constants"] - shifts
    assert 0 < 3_999_234_216 + 1_576_146_928 - stored < 128 * 1024


def test_dense_weights_are_saved_unless_layers_are_checkpointed():
    plain = estimate(parse_request(body()))
    checkpointed = estimate(parse_request(body(gradient_checkpointing=True)))
    dense = 28 * 2 * 3584 * (2 * 3584 + 2 * 512 + 3 * 18944)
    assert plain.memory.peak_allocated_bytes - checkpointed.memory.peak_allocated_bytes > dense * 0.9
    assert any("autograd saves" in warning for warning in plain.warnings)
    assert not any("autograd saves" in warning for warning in checkpointed.warnings)
    assert any("auto_trainable" in assumption for assumption in plain.assumptions)
    assert any("From source only" in assumption for assumption in plain.assumptions)


@pytest.mark.parametrize(
    ("changes", "loc", "why"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, "method.quantization_config.bits", "2, 4 and 8"),
        (
            {"quantization_config": {"quant_method": "gptq", "group_size": 48}},
            ".group_size",
            "no kernel for groups of 48",
        ),
        ({"target_modules": "all-linear"}, "method.target_modules", "no torch.nn.Linear: list q_proj, k_proj"),
        ({"use_dora": True}, "method.use_dora", "DoRA over a base in GPTQ is not modeled, or PEFT has none"),
        ({"bias": "lora_only"}, "method.bias", "buffers"),
        ({"modules_to_save": ["q_proj"], "target_modules": ["v_proj"]}, "method.modules_to_save", "stored in 4 bits"),
    ],
    ids=str,
)
def test_combinations_that_the_libraries_refuse_are_refused(changes, loc, why):
    with pytest.raises(PlanError) as caught:
        estimate(parse_request(body(changes)))
    (problem,) = caught.value.problems
    assert problem.loc.endswith(loc)
    assert why in problem.msg
