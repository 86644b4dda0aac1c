"""Steps of trainers, compared with traces of the real trainers (tests/cases/README.md), to the byte."""

import json
from collections import Counter

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from tests.paths import CASE_FILES

CASES = [json.loads(line) for line in (CASE_FILES / "trainers.jsonl").read_text().splitlines()]

#: Components whose tensors stay through the step.
RESIDENT = ("base_weights", "quantization_constants", "adapter_weights", "optimizer_states")

#: The text of a refusal of a step that is not modeled yet.
NOT_MODELED = ("not modeled", "unknown field", "must be one of")


@pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in CASES])
def test_a_step_of_a_trainer_is_right_to_the_byte_or_refused_as_not_modeled(case):
    try:
        answer = estimate(parse_request({**case["request"], "reserved": "rule"}))
    except PlanError as error:
        refused = str(error)
        assert any(text in refused for text in NOT_MODELED)
    else:
        expected = case["expected"]["phases"]
        # Generation was not traced in cases whose completions are long.
        assert {phase.name: phase.peak_bytes for phase in answer.memory.phases if phase.name in expected} == expected
        counts = case["expected"]["parameters"]
        assert {name: getattr(answer.parameters, name) for name in counts} == counts
        resident = Counter({component.name: component.bytes for component in answer.memory.components})
        static = {name: case["expected"]["static"][name] for name in RESIDENT}
        if "dynamic" not in case["id"]:  # a scaled rotary embedding's attribute, which the trace counts apart
            assert {name: resident[name] for name in RESIDENT} == static
