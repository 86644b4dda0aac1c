"""Estimates leave nothing for the garbage collector, which is off while a request is answered."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache

CASES: dict[str, dict[str, Any]] = {
    "KTO": {"trainer": "trl-kto"},
    "GRPO": {"trainer": "trl-grpo", "max_completion_length": 64},
    "FSDP2": {"sharding": "fsdp", "method": "lora"},
    "FSDP2, DPO": {"sharding": "fsdp", "method": "lora", "trainer": "trl-dpo"},
    "FSDP2, GRPO": {"sharding": "fsdp", "trainer": "trl-grpo", "max_completion_length": 64},
    "ZeRO-3": {"sharding": "zero3", "method": "lora"},
    "ZeRO-3, re-entrant checkpoints": {"sharding": "zero3", "method": "lora", "trainer": "trl-dpo"},
    "DDP": {"sharding": "ddp", "method": "lora"},
    "offloaded activations": {"method": "lora", "trainer": "trl-sft", "activation_offloading": True},
}


@pytest.mark.parametrize("reserved", ["rule", "replay"])
@pytest.mark.parametrize("name", CASES)
def test_an_estimate_leaves_no_reference_cycles(name: str, reserved: str) -> None:
    case = dict(CASES[name])
    sharding, method = case.pop("sharding", None), case.pop("method", "full")
    training = {"micro_batch_size": 2, "sequence_length": 128, "gradient_checkpointing": True, **case}
    if sharding == "zero3":
        training |= {"dtype": "float32", "autocast": "bfloat16"}
    request = parse_request(
        {
            "model": "HuggingFaceTB/SmolLM2-135M",
            "method": {"name": method} | ({"target_modules": "all-linear"} if method == "lora" else {}),
            "training": training,
            "device": {"count": 2, "sharding": sharding} if sharding else {},
            "reserved": reserved,
        }
    )
    estimate(request, SeriesCache())
    gc.collect()
    gc.disable()
    try:
        answer = estimate(request, SeriesCache())
        assert answer.memory.phases
        assert answer.memory.timeline
        del answer
        assert gc.collect() == 0
    finally:
        gc.enable()
