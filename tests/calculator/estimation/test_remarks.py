"""The warnings of an estimate."""

import pytest

from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request


def warnings(model, method, **training):
    return estimate(parse_request({"model": model, "method": method, "training": training})).warnings


PROMPT = {"name": "prompt", "num_virtual_tokens": 2000}


def test_the_math_kernels_scores_include_virtual_tokens():
    lines = warnings("meta-llama/Llama-3.1-8B", PROMPT, sequence_length=48, dtype="float32")
    (scores,) = [line for line in lines if "2.14" in line]
    assert f"{4 * 32 * 2048**2 / 2**30:.2f} GiB in every layer" in scores


@pytest.mark.parametrize("model", ["google/gemma-2-9b", "openai/gpt-oss-20b"])
def test_no_warning_of_the_math_kernel_for_a_family_with_eager_attention(model):
    assert not any("2.14" in warning for warning in warnings(model, {"name": "full"}, dtype="float32"))


def test_no_warning_of_the_math_kernel_for_requested_eager_attention():
    eager = {"dtype": "float32", "attention": "eager"}
    assert not any("2.14" in warning for warning in warnings("meta-llama/Llama-3.1-8B", {"name": "full"}, **eager))


def test_a_quantization_config_is_ignored_with_a_warning():
    plain = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 300}
    packed = {**plain, "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (line,) = [
        warning for warning in warnings({"config": packed}, {"name": "full"}) if "quantization_config" in warning
    ]
    assert "weights are in bfloat16" in line
    for config, method in ((packed, {"name": "qlora"}), (plain, {"name": "full"})):
        assert not any("quantization_config" in warning for warning in warnings({"config": config}, method))


@pytest.mark.parametrize("prepared", [True, False])
def test_experts_that_a_preparation_casts_to_float32_are_named(prepared):
    body = {
        "model": "mistralai/Mixtral-8x7B-v0.1",
        "method": {"name": "qlora", "target_modules": ["q_proj"], "prepare_model_for_kbit_training": prepared},
        "training": {"sequence_length": 64},
        "reserved": "rule",
    }
    found = " ".join(estimate(parse_request(body)).warnings)
    assert ("casts experts, which bitsandbytes leaves alone, to float32" in found) is prepared


def test_a_memory_in_gib_is_a_warning():
    def warned(memory):
        return any("is a number of bytes" in line for line in warnings_of(memory))

    def warnings_of(memory):
        body = {"model": "gpt2", "method": {"name": "lora"}, "device": {"memory_bytes": memory}, "reserved": "rule"}
        return estimate(parse_request(body)).warnings

    assert "device.memory_bytes is a number of bytes, and 24 is less than 1 MiB: 24 GiB is 25769803776." in warnings_of(
        24
    )
    assert warned(24 << 10)
    assert not warned(24 << 30)
