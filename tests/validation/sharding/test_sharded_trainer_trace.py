"""A trace of transformers' Trainer on one of several GPUs."""

import os

import pytest

from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from tests.validation.sharding.test_sharded_trace import LORA, body
from validation.comparison.show import traced_body

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]


def test_the_trainers_step_under_fsdp_is_traced_and_leaves_the_process_as_it_was():
    request = body("fsdp", LORA, trainer="transformers", autocast="bfloat16", gradient_checkpointing=True)
    before = dict(os.environ)
    found = traced_body(request)
    assert dict(os.environ) == before
    memory = estimate(parse_request({**request, "reserved": "rule"})).memory
    assert {phase.name: phase.peak_bytes for phase in memory.phases} == found.phases
    shards = {storage.name for storage in found.ledger.storages if storage.component == "optimizer_states"}
    assert "model.layers.0.self_attn.q_proj.lora_A.default.weight.exp_avg" in shards
