"""Kernel packages: what they save, and what is refused or stated. tests/cases/kernels.jsonl has traced steps."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

LORA = {"name": "lora", "target_modules": "all-linear"}
QWEN, LFM2 = "Qwen/Qwen3.5-0.8B", "LiquidAI/LFM2-350M"


def answer(model=QWEN, config=None, **sections):
    training = {"sequence_length": 256, **sections.pop("training", {})}
    return estimate(
        parse_request({"model": config or model, "method": LORA, "training": training, "reserved": "rule", **sections})
    )


def refusal(kernels, **arguments):
    with pytest.raises(PlanError) as error:
        answer(training={"kernels": kernels}, **arguments)
    return [(problem.loc, problem.msg) for problem in error.value.problems]


def peak(kernels, model=QWEN):
    return answer(model, training={"kernels": kernels}).memory.peak_allocated_bytes


def test_each_package_saves_activations():
    assert peak(["fla", "causal_conv1d"]) < peak(["fla"]) < peak(None)
    assert peak(["causal_conv1d"], LFM2) < peak(None, LFM2)


def test_the_answer_states_what_is_from_the_source_of_a_package():
    stated = " ".join(answer(training={"kernels": ["fla"]}).assumptions)
    assert "from their source alone (fla 0.5.2, fla/ops/gated_delta_rule/chunk.py" in stated
    assert "transformers' own PyTorch code" not in stated
    assert "counts them with training.kernels" in " ".join(answer().assumptions)


@pytest.mark.parametrize(
    ("kernels", "message"),
    [
        (["causal_conv1d"], "use ['fla'] or ['fla', 'causal_conv1d']"),
        (["fla", "mamba_ssm"], "mamba_ssm is not modelled"),
    ],
)
def test_packages_that_are_not_modelled_are_refused(kernels, message):
    ((loc, found),) = refusal(kernels)
    assert loc == "training.kernels"
    assert message in found


def test_packages_of_models_that_call_none_are_refused():
    assert refusal(["fla"], model="meta-llama/Llama-3.2-1B") == [
        ("training.kernels", "kernel packages are not modelled for llama: leave it out")
    ]


def test_sizes_that_the_kernels_do_not_take_are_refused():
    config = {"model_type": "lfm2", "vocab_size": 96, "hidden_size": 72, "num_hidden_layers": 2, "conv_L_cache": 5}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "full_attn_idxs": [1]}
    ((loc, message),) = refusal(["causal_conv1d"], config={"config": config})
    assert loc == "training.kernels"
    assert "not 5 positions and 72 channels" in message


def test_several_gpus_and_other_releases_are_refused():
    assert [loc for loc, _ in refusal(["fla"], device={"count": 2, "sharding": "ddp"})] == ["device.sharding"]
    assert "stack.transformers" in [loc for loc, _ in refusal(["fla"], stack={"transformers": "5.20"})]
