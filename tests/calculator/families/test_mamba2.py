"""Mamba 2: what transformers and PEFT refuse, and what is not modeled."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

SIZES = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 16, "chunk_size": 32}
MAMBA2 = {"model_type": "mamba2", **SIZES, "num_heads": 4, "head_dim": 32, "n_groups": 2}


def refused(method=None, training=None, **config):
    method = method or {"name": "lora", "target_modules": ["in_proj"]}
    body = {"model": {"config": MAMBA2 | config}, "method": method, "training": training or {}, "reserved": "rule"}
    with pytest.raises(PlanError) as raised:
        estimate(parse_request(body))
    return [problem.loc for problem in raised.value.problems]


def test_the_projection_of_the_output_is_not_adapted():
    assert refused({"name": "lora", "target_modules": ["out_proj"]}) == ["method.target_modules"]


def test_a_refusal_names_the_proposed_module():
    body = {"model": {"config": MAMBA2}, "method": {"name": "lora", "target_modules": ["out_proj"]}}
    with pytest.raises(PlanError, match=r"name the input projection of Mamba's layers \(in_proj\)"):
        estimate(parse_request(body))


@pytest.mark.parametrize("device", [{}, {"count": 2, "sharding": "fsdp"}])
def test_a_prefix_is_refused(device):
    body = {"model": {"config": MAMBA2}, "method": {"name": "prefix"}, "device": device, "reserved": "rule"}
    with pytest.raises(PlanError, match="without attention cache another state"):
        estimate(parse_request(body))


def test_flash_attention_2_is_refused():
    assert refused(training={"attention": "flash_attention_2"}) == ["training.attention"]


def test_trainers_of_trl_are_refused():
    assert refused(training={"trainer": "trl-sft"}) == ["training.trainer"]


def test_heads_make_up_a_multiple_of_the_hidden_size():
    assert refused(num_heads=6) == ["model.config.num_heads"]
