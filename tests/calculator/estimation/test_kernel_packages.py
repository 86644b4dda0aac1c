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
        parse_request({"model": config or model, "method": LORA, "training": training, "reserved": "rule"} | sections)
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
    assert "only from their source (fla 0.5.2, fla/ops/gated_delta_rule/chunk.py" in stated
    assert "transformers' own PyTorch code" not in stated
    assert "counts them with training.kernels" in " ".join(answer().assumptions)


@pytest.mark.parametrize(
    ("kernels", "message"),
    [
        (["causal_conv1d"], "use ['fla'] or ['fla', 'causal_conv1d']"),
        (["fla", "mamba_ssm"], "mamba_ssm is not modeled"),
    ],
)
def test_packages_that_are_not_modeled_are_refused(kernels, message):
    ((loc, found),) = refusal(kernels)
    assert loc == "training.kernels"
    assert message in found


MAMBA2 = {"model_type": "mamba2", "vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2, "num_heads": 8}
MAMBA2 |= {"head_dim": 16, "state_size": 16, "n_groups": 2, "chunk_size": 32}
IN_PROJ = {"name": "lora", "target_modules": ["in_proj"]}


def test_mamba_ssm_saves_activations_of_mamba_2_and_states_its_source():
    given = {"config": {"config": MAMBA2}, "method": IN_PROJ}
    both = answer(training={"kernels": ["causal_conv1d", "mamba_ssm"]}, **given)
    alone = answer(training={"kernels": ["causal_conv1d"]}, **given)
    without = answer(**given)
    assert both.memory.peak_allocated_bytes < alone.memory.peak_allocated_bytes < without.memory.peak_allocated_bytes
    stated = " ".join(both.assumptions)
    assert "mamba-ssm 2.3.2.post1" in stated
    assert "108 multiprocessors" in stated
    assert "transformers' own PyTorch code" not in stated
    assert "training.kernels" in " ".join(without.assumptions)


@pytest.mark.parametrize(
    ("changes", "loc"),
    [
        ({"method": {"name": "qlora", "target_modules": ["in_proj"]}}, "training.kernels"),
        (
            {"method": {"name": "ia3", "target_modules": ["out_proj"], "feedforward_modules": ["out_proj"]}},
            "training.kernels",
        ),
        ({"training": {"autocast": "bfloat16", "dtype": "float32"}}, "training.autocast"),
    ],
)
def test_methods_that_mamba_ssm_does_not_run_or_that_are_not_modeled_are_refused(changes, loc):
    training = {"kernels": ["causal_conv1d", "mamba_ssm"], **changes.pop("training", {})}
    with pytest.raises(PlanError) as error:
        answer(config={"config": MAMBA2}, **{"method": IN_PROJ, **changes}, training=training)
    assert loc in [problem.loc for problem in error.value.problems]


def test_packages_of_models_that_call_none_are_refused():
    assert refusal(["fla"], model="meta-llama/Llama-3.2-1B") == [
        ("training.kernels", "kernel packages are not modeled for llama: leave it out")
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
