"""Traces of torchtune's recipes, and the random requests for them."""

import json
import sys

import pytest

from calculator.common.errors import PlanError
from tests.paths import CASE_FILES
from validation.comparison.show import traced_body
from validation.random_grid.grid import drawn

CASES = {case["id"]: case for case in map(json.loads, (CASE_FILES / "torchtune.jsonl").read_text().splitlines())}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["torchtune-1671-0", "torchtune-16812-1", "torchtune-16813-3", "torchtune-880401-14"])
def test_a_recipes_step_is_that_of_its_case(name):
    pytest.importorskip("torchtune", reason="torchtune is installed in a folder of its own")
    case = CASES[name]
    traced = traced_body(case["request"])
    assert traced.phases == case["expected"]["phases"]
    assert traced.parameters == case["expected"]["parameters"]


def test_random_requests_are_of_torchtune_and_most_are_answered():
    cases = drawn(1, 10, (), torchtune_only=True)
    assert {case.request["training"]["trainer"] for case in cases} == {"torchtune"}
    assert len(cases) < 25


def test_without_torchtune_the_refusal_names_the_guide(monkeypatch):
    monkeypatch.setitem(sys.modules, "validation.torchtune_recipes.trace", None)
    with pytest.raises(PlanError, match=r"docs/traces\.md"):
        traced_body(CASES["torchtune-1671-0"]["request"])
