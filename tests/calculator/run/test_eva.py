"""EVA: what its passes of samples take, how ranks are bounded, and what PEFT's hooks fail on."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.run.request import parse_run
from calculator.run.run import whole_run

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}


def body(**method):
    method = {"name": "lora", "init_lora_weights": "eva", "r": 4, "target_modules": ["q_proj", "down_proj"], **method}
    return {"model": {"config": LLAMA}, "method": method, "training": {"sequence_length": 32}, "reserved": "rule"}


def ranks(**method):
    return [warning for warning in estimate(parse_request(body(**method))).warnings if "ranks from 0" in warning]


def test_samples_decide_about_ranks_unless_rho_is_1():
    """The four modules have 16 ranks in all, and at most 8 each: those with 128 or with 224 numbers for a rank."""
    (sentence,) = ranks()
    assert f"A and B have {16 * 128:,} to {16 * 224:,} parameters" in sentence
    assert not ranks(eva_config={"rho": 1.0})


def test_larger_ranks_take_more_before_the_first_step():
    def load(rho):
        request = {**body(eva_config={"rho": rho}), "run": {"save_strategy": "no", "device_map": "auto"}}
        return next(phase for phase in whole_run(parse_run(request)).phases if phase.name == "load").gpu_bytes

    assert load(1.0) < load(2.0) < load(4.0)


@pytest.mark.parametrize(
    ("loc", "method"),
    [
        ("method.trainable_token_indices", {"trainable_token_indices": [1]}),
        ("method.eva_config", {"eva_config": {"rho": 0.5}}),
        ("method.eva_config", {"eva_config": {"tau": 0.9}}),
        ("method.r", {"r": 40}),
    ],
)
def test_runs_in_which_pefts_hooks_fail_are_refused(loc, method):
    with pytest.raises(PlanError) as error:
        estimate(parse_request(body(**method)))
    assert [problem.loc for problem in error.value.problems] == [loc]


def test_experts_that_get_rows_of_tokens_are_refused():
    moe = {
        **LLAMA,
        "model_type": "qwen2_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 64,
    }
    with pytest.raises(PlanError, match="down_proj has two"):
        estimate(parse_request({**body(), "model": {"config": moe}}))


def test_inputs_that_eva_gathers_from_other_gpus_are_not_counted():
    request = {
        **body(),
        "run": {"save_strategy": "no", "device_map": "auto"},
        "device": {"count": 2, "sharding": "ddp"},
    }
    load = next(phase for phase in whole_run(parse_run(request)).phases if phase.name == "load")
    assert all("singular" not in row.name for row in load.rows)
