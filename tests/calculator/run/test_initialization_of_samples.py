"""Tensors that CorDA and LoRA-GA keep from samples until A and B are made."""

import pytest

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


def load(init, **run):
    method = {"name": "lora", "init_lora_weights": init, "target_modules": ["q_proj", "down_proj"]}
    body = {"model": {"config": LLAMA}, "method": method, "training": {"sequence_length": 8}, "reserved": "rule"}
    phases = whole_run(parse_run({**body, "run": {"save_strategy": "no", **run}})).phases
    return next(phase for phase in phases if phase.name == "load")


def test_all_singular_vectors_of_corda_are_in_host_memory():
    plain, corda = load(True, device_map="auto"), load("corda", device_map="auto")
    assert corda.host_bytes - plain.host_bytes == 2 * 4 * (64 * (64 + 64) + 64 * (64 + 160))
    assert "singular vectors" in corda.host


@pytest.mark.parametrize(("init", "row"), [("corda", "covariance matrices"), ("lora_ga", "gradients of weights")])
def test_tensors_that_every_module_keeps_are_a_row(init, row):
    assert row in [shown.name for shown in load(init, device_map="auto").rows]
    assert row not in [shown.name for shown in load(init).rows]
