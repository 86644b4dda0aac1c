"""A trained copy of the routers' correction of ERNIE 4.5, which the graph does not contain."""

from __future__ import annotations

from typing import Any

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

REQUEST: dict[str, Any] = {
    "model": {
        "config": {
            "model_type": "ernie4_5_moe",
            "vocab_size": 65205,
            "hidden_size": 824,
            "intermediate_size": 6036,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "head_dim": 96,
            "max_position_embeddings": 1024,
            "hidden_act": "leaky_relu",
            "num_experts": 10,
            "num_experts_per_tok": 1,
            "output_router_logits": False,
        }
    },
    "method": {
        "name": "ln_tuning",
        "target_modules": ["input_layernorm", "norm"],
        "modules_to_save": ["moe_statics"],
    },
    "training": {
        "micro_batch_size": 4,
        "sequence_length": 1536,
        "gradient_accumulation_steps": 8,
        "gradient_checkpointing": True,
        "optimizer": "sgd",
    },
    "reserved": "rule",
}

#: The phases of the traced step, in bytes: forward, backward, optimizer_step (transformers 5.24, peft 0.21).
TRACED = [4_752_608_768, 5_523_372_544, 643_848_704]


def test_a_trained_copy_of_the_correction_gets_no_gradient():
    answer = estimate(parse_request(REQUEST))
    gradients = next(part for part in answer.memory.components if part.name == "gradients")
    assert gradients.bytes == 14_336
    assert [phase.peak_bytes for phase in answer.memory.phases] == TRACED
    assert any("get no gradient: they are on the GPU" in warning for warning in answer.warnings)


def test_ddp_refuses_the_copy_unless_it_finds_unused_parameters():
    sharded = {**REQUEST, "device": {"count": 4, "sharding": "ddp"}}
    with pytest.raises(PlanError, match="trained parameters that get no gradient: set it true"):
        estimate(parse_request(sharded))
    finds = {**REQUEST["training"], "ddp": {"find_unused_parameters": True}}
    assert estimate(parse_request({**sharded, "training": finds}))
