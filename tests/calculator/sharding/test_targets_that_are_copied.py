"""Methods whose modules share matrices, where every target is copied by `modules_to_save` instead of adapted."""

from __future__ import annotations

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request


@pytest.mark.parametrize("sharding", ["ddp", "fsdp", "zero1", "zero2", "zero3"])
@pytest.mark.parametrize("method", ["randlora", "vera", "pvera", "vblora", "unilora", "tinylora", "lily"])
def test_a_method_without_adapted_modules_is_refused(method, sharding):
    body = {
        "model": "Qwen/Qwen2.5-0.5B",
        "method": {"name": method, "target_modules": ["o_proj"], "modules_to_save": ["o_proj"]},
        "training": {"autocast": "bfloat16"},
        "device": {"count": 2, "sharding": sharding},
        "reserved": "rule",
    }
    with pytest.raises(PlanError):
        estimate(parse_request(body))
