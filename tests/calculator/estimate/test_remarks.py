"""What an answer says beside its figures."""

import pytest

from calculator.estimate.estimate import estimate
from calculator.estimate.request import parse_request


def warnings(model, method, **training):
    return estimate(parse_request({"model": model, "method": method, "training": training})).warnings


PROMPT = {"name": "prompt", "num_virtual_tokens": 2000}


def test_the_math_kernels_scores_are_of_the_sequence_with_its_virtual_tokens():
    told = warnings("meta-llama/Llama-3.1-8B", PROMPT, sequence_length=48, dtype="float32")
    (scores,) = [warning for warning in told if "2.14" in warning]
    assert f"{4 * 32 * 2048**2 / 2**30:.2f} GiB in every layer" in scores


@pytest.mark.parametrize("model", ["google/gemma-2-9b", "openai/gpt-oss-20b"])
def test_a_family_that_runs_eager_is_not_warned_of_a_kernel_that_it_never_takes(model):
    assert not any("2.14" in warning for warning in warnings(model, {"name": "full"}, dtype="float32"))


def test_attention_that_is_asked_for_eager_is_not_warned_of_either():
    eager = {"dtype": "float32", "attention": "eager"}
    assert not any("2.14" in warning for warning in warnings("meta-llama/Llama-3.1-8B", {"name": "full"}, **eager))


def test_a_config_of_quantised_weights_is_told_to_be_taken_as_dense():
    plain = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 300}
    packed = {**plain, "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (told,) = [each for each in warnings({"config": packed}, {"name": "full"}) if "quantization_config" in each]
    assert "taken in bfloat16" in told
    for config, method in ((packed, {"name": "qlora"}), (plain, {"name": "full"})):
        assert not any("quantization_config" in each for each in warnings({"config": config}, method))
