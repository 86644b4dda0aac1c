"""Trainers on several GPUs, compared with traces of their real `train()` on one rank (tests/cases/README.md)."""

import json
from collections import Counter

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from tests.paths import CASE_FILES

CASES = [json.loads(line) for line in (CASE_FILES / "sharded" / "trainers.jsonl").read_text().splitlines()]

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
}
LORA = {"name": "lora", "r": 4, "target_modules": "all-linear"}


def answer(sharding, method=LORA, trainer="transformers", **training):
    body = {
        "model": {"config": CONFIG},
        "method": method,
        "training": {"trainer": trainer, "sequence_length": 64, "autocast": "bfloat16", **training},
        "device": {"count": 2, "sharding": sharding},
        "reserved": "rule",
    }
    return estimate(parse_request(body))


def phases(*args, **kwargs):
    return {phase.name: phase.peak_bytes for phase in answer(*args, **kwargs).memory.phases}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_every_phase_of_a_trainers_rank_is_right_to_the_byte(case):
    memory = estimate(parse_request({**case["request"], "reserved": "rule"})).memory
    assert {phase.name: phase.peak_bytes for phase in memory.phases} == case["expected"]["phases"]


def test_the_cases_cover_every_sharding():
    counts = Counter(case["request"]["device"]["sharding"] for case in CASES)
    assert set(counts) == {"ddp", "fsdp", "zero1", "zero2", "zero3"}
    assert min(counts.values()) >= 4


@pytest.mark.parametrize("sharding", ["zero1", "zero2", "zero3"])
def test_the_batches_of_a_step_stay_on_the_gpu_under_deepspeed(sharding):
    small = phases(sharding, sequence_length=64)["optimizer_step"]
    large = phases(sharding, sequence_length=4096)["optimizer_step"]
    batches = 3 * 8 * (4096 - 64)
    assert large - small == batches


@pytest.mark.parametrize(("option", "bytes_more"), [("find_unused_parameters", 512), ("static_graph", 512)])
def test_ddp_keeps_a_map_of_used_parameters_if_it_looks_for_unused_ones(option, bytes_more):
    step = "optimizer_step"
    assert phases("ddp", ddp={option: True})[step] - phases("ddp")[step] == bytes_more


@pytest.mark.parametrize(
    ("loc", "kwargs"),
    [
        (
            "training.fsdp_config.reshard_after_forward",
            {
                "sharding": "fsdp",
                "trainer": "trl-dpo",
                "method": {"name": "full"},
                "fsdp_config": {"reshard_after_forward": False},
            },
        ),
        (
            "training.fsdp_config.cpu_offload",
            {"sharding": "fsdp", "trainer": "trl-sft", "fsdp_config": {"cpu_offload": True}},
        ),
        (
            "training.fsdp_config.cpu_offload",
            {
                "sharding": "fsdp",
                "trainer": "trl-grpo",
                "method": {"name": "full"},
                "micro_batch_size": 8,
                "fsdp_config": {"cpu_offload": True},
            },
        ),
        (
            "training.use_vllm",
            {
                "sharding": "zero3",
                "trainer": "trl-rloo",
                "method": {"name": "qlora", "target_modules": "all-linear", "prepare_model_for_kbit_training": False},
                "micro_batch_size": 8,
                "autocast": "bfloat16",
                "use_vllm": True,
            },
        ),
        ("method.modules_to_save", {"sharding": "zero3", "trainer": "trl-reward"}),
        ("training.adapter_dtype", {"sharding": "zero2", "trainer": "trl-dpo", "adapter_dtype": "model"}),
        ("training.optimizer", {"sharding": "fsdp", "optimizer": "adagrad"}),
        ("training.ddp.gradient_as_bucket_view", {"sharding": "ddp", "ddp": {"gradient_as_bucket_view": True}}),
    ],
)
def test_a_refusal_of_a_trainer_on_several_gpus_names_its_field(loc, kwargs):
    with pytest.raises(PlanError) as caught:
        answer(**kwargs)
    assert [problem.loc for problem in caught.value.problems] == [loc]


def test_dora_of_a_4_bit_model_under_fsdp_needs_transformers_own_trainer():
    dora = {"name": "qlora", "r": 4, "use_dora": True, "quant_storage": "bfloat16", "target_modules": "all-linear"}
    dora["prepare_model_for_kbit_training"] = False
    assert phases("fsdp", dora)
    with pytest.raises(PlanError) as refused:
        answer("fsdp", dora, "trl-sft")
    assert "method.use_dora" in str(refused.value)


def test_the_frozen_head_that_trl_gathers_under_fsdp_is_unsharded():
    wider = [phases("fsdp", trainer="trl-sft", dtype=dtype)["forward"] for dtype in ("bfloat16", "float32")]
    head = CONFIG["vocab_size"] * CONFIG["hidden_size"]
    assert wider[1] - wider[0] > 2 * head  # a whole head in float32, and tiles of it in bfloat16


def test_a_second_model_is_gathered_completely_and_its_buffer_is_as_large_under_fsdp():
    full = {"method": {"name": "full"}, "trainer": "trl-dpo", "micro_batch_size": 2}
    run, none = (phases("fsdp", **full, precompute_ref_log_probs=known)["forward"] for known in (False, True))
    weights = 2 * answer("fsdp", **full).model.parameters
    assert run - none > 2 * weights


def test_every_gpu_has_all_weights_while_a_trainer_generates_under_zero_3():
    full = {"method": {"name": "full"}, "trainer": "trl-grpo", "micro_batch_size": 8, "max_completion_length": 4}
    of_stage_2, of_stage_3 = (phases(sharding, **full)["generation"] for sharding in ("zero2", "zero3"))
    bucket, partition = 2 * 500_000_000, answer("zero3", **full).model.parameters  # bfloat16, on 2 GPUs
    assert of_stage_3 - of_stage_2 - bucket >= 2 * partition  # of weights and of gradients


def test_an_answer_warns_of_what_is_not_traced_on_several_gpus():
    offload = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    for sharding, trainer in (("fsdp", "transformers"), ("ddp", "trl-sft"), ("ddp", "trl-dpo")):
        assert not any("not traced" in line for line in answer(sharding, trainer=trainer).warnings)
    assert any("not traced" in line for line in answer("zero2", deepspeed=offload).warnings)
