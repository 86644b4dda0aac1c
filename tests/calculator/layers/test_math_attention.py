"""The math kernel compared with traces of PyTorch before 2.14."""

import json

import pytest

from calculator.devices.kernels import Kernels
from calculator.estimation.estimate import training_step
from calculator.estimation.request import parse_request
from calculator.methods.prepared_model import PreparedModel
from tests.paths import CASE_FILES

WHY = "torch before 2.14: math attention for float32 and grouped heads"
CASES = [
    (case, traced)
    for case in map(json.loads, (CASE_FILES / "public.jsonl").read_text().splitlines())
    for traced in case.get("alternatives", [])
    if traced["why"] == WHY
]


@pytest.mark.parametrize(("case", "traced"), CASES, ids=[case["id"] for case, _ in CASES])
def test_the_math_kernel_allocates_as_in_older_releases(case, traced, monkeypatch):
    monkeypatch.setattr(PreparedModel, "kernels", Kernels(grouped_efficient=False))
    step = training_step(parse_request(case["request"]))
    assert {peak.phase: peak.bytes for peak in step.peaks()} == pytest.approx(traced["phases"], abs=4096)
