"""The rule for reserved memory, compared with replays of random requests."""

from dataclasses import replace
from statistics import median

import pytest

from calculator.allocator.reserved_assumptions import REPLAY, RULE
from calculator.allocator.segments import MIB
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from tests.calculator.random_plans import excesses, plans


@pytest.fixture(scope="module")
def rows():
    return excesses(plans(seed=2026, count=40))


def test_the_rule_is_at_or_above_the_replay_in_ninety_five_of_a_hundred_plans(rows):
    assert sum(ruled >= 1 for _, ruled, _ in rows) >= 0.95 * len(rows)


def test_the_rule_is_below_the_replay_by_little_if_at_all(rows):
    assert min(ruled for _, ruled, _ in rows) > 0.9


def test_the_rule_is_a_tenth_above_the_replay_in_the_median_at_most(rows):
    assert 1 < median(ruled for _, ruled, _ in rows) < 1.1


def test_both_reserve_at_least_what_is_allocated_and_the_workspaces(rows):
    for replayed, ruled, request in rows:
        assert replayed >= 1, request
        assert replayed * ruled >= 1, request


def test_reserved_memory_is_a_sum_of_segments(rows):
    for _, _, request in rows[:5]:
        for reserved in ("rule", "replay"):
            assert estimate(replace(request, reserved=reserved)).memory.peak_reserved_bytes % (2 * MIB) == 0


def test_the_answer_states_whether_the_rule_or_the_replay_was_used():
    body = {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "lora"}}
    assert RULE in estimate(parse_request(body | {"reserved": "rule"})).assumptions
    assert REPLAY in estimate(parse_request(body)).assumptions


def test_fragmentation_is_reserved_memory_without_tensors_and_workspaces():
    memory = estimate(parse_request({"model": "meta-llama/Llama-3.2-1B", "method": {"name": "lora"}})).memory
    (row,) = (row for row in memory.overheads if "fragmentation" in row.name)
    assert row.bytes == memory.peak_reserved_bytes - memory.peak_allocated_bytes - memory.library_workspace_bytes


def test_workspaces_have_separate_segments_on_hopper_and_share_one_on_ampere():
    body = {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "lora"}, "training": {"sequence_length": 512}}
    ampere, hopper = (
        estimate(parse_request(body | {"reserved": "rule", "device": {"gpu": name}})).memory.peak_reserved_bytes
        for name in ("a100-sxm4-80gb", "h100-sxm5-80gb")
    )
    assert hopper - ampere == 2 * 32 * MIB - 20 * MIB


def test_tensors_that_a_step_leaves_are_alive_in_the_next_forward_pass():
    """DoRA with dropout keeps a gradient of each transposed weight until the next step has its own graph."""
    config = {"model_type": "gpt2", "vocab_size": 5000, "hidden_size": 1536, "n_layer": 3, "num_attention_heads": 12}
    method = {"name": "lora", "r": 1, "use_dora": True, "lora_dropout": 0.05}
    training = {"sequence_length": 2, "micro_batch_size": 3, "dtype": "float32"}
    body = {"model": {"config": config}, "method": method, "training": training}
    ruled = estimate(parse_request(body | {"reserved": "rule"})).memory
    replayed = estimate(parse_request(body | {"reserved": "replay"})).memory
    assert ruled.peak_phase == "forward"
    assert ruled.peak_reserved_bytes >= replayed.peak_reserved_bytes >= replayed.peak_allocated_bytes


@pytest.mark.parametrize("trainer", ["trl-grpo", "trl-rloo"])
def test_the_rule_counts_offloaded_weights_that_are_gathered_to_generate(trainer):
    """All copies of partitions are on the GPU while all weights are gathered, before any pass of generate."""
    memory = estimate(
        parse_request(
            {
                "model": "mistralai/Mistral-7B-v0.3",
                "method": {"name": "full"},
                "training": {
                    "trainer": trainer,
                    "autocast": "bfloat16",
                    "sequence_length": 512,
                    "micro_batch_size": 8,
                    "num_generations": 8,
                    "max_completion_length": 256,
                    "deepspeed": {
                        "zero_optimization": {
                            "offload_param": {"device": "cpu"},
                            "offload_optimizer": {"device": "cpu"},
                        }
                    },
                },
                "device": {"count": 4, "sharding": "zero3"},
            }
        )
    ).memory
    assert memory.peak_reserved_bytes > memory.peak_allocated_bytes
