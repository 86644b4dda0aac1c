"""Optimizers of packages on shards: which run, and why others do not."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}


def answered(optimizer, sharding, *, layers=2, method=None, **training):
    return estimate(
        parse_request(
            {
                "model": {"config": {**LLAMA, "num_hidden_layers": layers}},
                "method": method or {"name": "full"},
                "training": {"sequence_length": 8, "autocast": "bfloat16", "optimizer": optimizer, **training},
                "device": {"count": 2, "sharding": sharding},
                "reserved": "rule",
            }
        )
    )


@pytest.mark.parametrize("sharding", ["fsdp", "zero1", "zero2", "zero3"])
def test_quantized_states_take_less_than_float32_ones_on_every_shard(sharding):
    eight, whole = (
        answered(name, sharding, method={"name": "lora", "target_modules": "all-linear"})
        for name in ("adamw_torch_8bit", "adamw_torch")
    )
    assert eight.memory.peak_allocated_bytes <= whole.memory.peak_allocated_bytes


@pytest.mark.parametrize(
    ("optimizer", "sharding", "words", "rest"),
    [
        ("muon", "zero1", "no matrices", {}),
        ("muon", "fsdp", "gather whole ones", {}),
        ("galore_adamw", "fsdp", "gathers whole gradients", {"optim_target_modules": "all-linear"}),
        ("grokadamw", "fsdp", "DTensor", {}),
        ("schedule_free_adamw", "fsdp", "in the reference step", {"trainer": "transformers"}),
        (
            "adamw_torch_8bit",
            "zero1",
            "no multiple of 256",
            {"layers": 8, "method": {"name": "lora", "r": 2, "target_modules": "all-linear"}},
        ),
    ],
)
def test_others_are_refused_with_the_reason(optimizer, sharding, words, rest):
    with pytest.raises(PlanError, match=words) as error:
        answered(optimizer, sharding, **rest)
    assert error.value.problems[0].loc == "training.optimizer"
