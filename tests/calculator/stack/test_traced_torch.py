"""Steps with other releases of PyTorch, traced on its meta device, and the calculator's with `stack.torch`.

traced_torch.json has the most bytes alive in each phase, traced with the release of PyTorch that a request names,
transformers 5.24.0, peft 0.21.2 and bitsandbytes 0.50.2.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calculator.common.errors import PlanError
from calculator.devices.kernels import kernels_of
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.inputs.device import Device
from calculator.inputs.stack import StackVersions
from calculator.stack.torch_releases import expert_problems

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "traced_torch.json").read_text(encoding="utf-8"))
MOE = {"model": "Qwen/Qwen3-30B-A3B", "method": {"name": "lora", "target_modules": ["q_proj"]}, "reserved": "rule"}


def name(case: dict[str, Any]) -> str:
    request = case["request"]
    method, config = request["method"]["name"], request["model"]["config"]["model_type"]
    return f"{request['stack']['torch']}-{config}-{method}-{request['device'].get('sharding', 'none')}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_phase_is_as_traced_with_the_release(case: dict[str, Any]) -> None:
    answer = estimate(parse_request({**case["request"], "reserved": "rule"}))
    assert [phase.peak_bytes for phase in answer.memory.phases] == case["phases"]


def peak(**changes: Any) -> int:
    return max(phase.peak_bytes for phase in estimate(parse_request({**MOE, **changes})).memory.phases)


@pytest.mark.parametrize(
    ("torch", "gpu", "groups"),
    [
        ("2.15", None, True),
        ("2.9", "rtx-4090", True),
        ("2.15", "t4", False),
        ("2.8", "h100-sxm5-80gb", True),
        ("2.8", "rtx-4090", False),
        ("2.8", None, False),
        ("2.7", "h100-sxm5-80gb", False),
    ],
)
def test_experts_have_a_grouped_product_if_the_release_and_the_gpu_have_one(
    torch: str, gpu: str | None, groups: bool
) -> None:
    assert kernels_of(Device(gpu=gpu), StackVersions(torch=torch), None).grouped_mm == groups


def test_without_a_grouped_product_the_gradient_of_frozen_experts_is_computed() -> None:
    assert peak(stack={"torch": "2.6"}) - peak(stack={"torch": "2.13"}) >= 128 * 2 * 768 * 2048 * 2


def test_muon_needs_a_release_that_has_it() -> None:
    body = {**MOE, "training": {"optimizer": "muon"}, "method": {"name": "full"}, "stack": {"torch": "2.8"}}
    with pytest.raises(PlanError, match=r"training\.optimizer: PyTorch 2\.8 has no torch\.optim\.Muon: use another"):
        estimate(parse_request(body))


@pytest.mark.parametrize("sharding", ["ddp", "zero2", "fsdp"])
def test_a_step_on_several_gpus_needs_a_release_that_was_traced(sharding: str) -> None:
    training = {"autocast": "bfloat16"}
    body = {**MOE, "device": {"count": 2, "sharding": sharding}, "stack": {"torch": "2.12"}, "training": training}
    expected = r"stack\.torch: what PyTorch 2\.12 does on several GPUs is not modeled: use 2\.13 to 2\.15"
    with pytest.raises(PlanError, match=expected):
        estimate(parse_request(body))
    estimate(parse_request({**body, "stack": {"torch": "2.13"}}))


def test_experts_of_transformers_without_a_check_of_the_gpu_need_a_grouped_product() -> None:
    versions = StackVersions(torch="2.6", transformers="5.4")
    (problem,) = expert_problems(versions, grouped_mm=False)
    assert problem.msg.startswith("how transformers 5.4 runs experts where PyTorch 2.6 has no grouped matrix product")
    assert not [*expert_problems(versions, grouped_mm=True)]
    assert not [*expert_problems(StackVersions(torch="2.6"), grouped_mm=False)]
