"""Steps of trainers, compared with traces of the real trainers (tests/cases/README.md), to the byte."""

import json

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from tests.paths import CASE_FILES

CASES = [json.loads(line) for line in (CASE_FILES / "trainers.jsonl").read_text().splitlines()]

#: What a refusal of a step that is not modelled yet states.
NOT_MODELLED = ("not modelled", "unknown field", "must be one of")


@pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in CASES])
def test_a_step_of_a_trainer_is_right_to_the_byte_or_refused_as_not_modelled(case):
    try:
        memory = estimate(parse_request({**case["request"], "reserved": "rule"})).memory
    except PlanError as error:
        refused = str(error)
        assert any(text in refused for text in NOT_MODELLED)
    else:
        expected = case["expected"]["phases"]
        # Generation was not traced in cases whose completions are long.
        assert {phase.name: phase.peak_bytes for phase in memory.phases if phase.name in expected} == expected
