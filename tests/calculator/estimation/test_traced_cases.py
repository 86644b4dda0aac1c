"""Estimates compared with figures traced from the real modules (tests/cases/README.md)."""

import json
from collections import Counter

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.remarks import ACCURACY
from calculator.estimation.request import parse_request
from calculator.families import FAMILIES, FAMILIES_WITH_FORWARD, fields
from calculator.layers.activation import ACTIVATIONS
from calculator.methods import METHODS
from tests.paths import CASE_FILES

#: Cases of sharded runs and of trainers have tests of their own.
FILES = sorted(path for path in CASE_FILES.glob("*.jsonl") if path.name not in {"sharded.jsonl", "trainers.jsonl"})
CASES = [json.loads(line) for path in FILES for line in path.read_text().splitlines()]
REFUSED = [case for case in CASES if case["expected"].get("refused")]
COUNTED = [case for case in CASES if "parameters" in case["expected"]]
TRACED = [case for case in CASES if "phases" in case["expected"]]
EXACT = [case for case in TRACED if "exact" in case["tags"]]
TEXTBOOK = [case for case in CASES if "textbook" in case["tags"]]

#: Input ids, labels and indices are some kilobytes, and may be freed a moment earlier or later.
SMALL = 512 * 1024


def answer(case):
    """The answer to a case. No trace has reserved memory, so it is not replayed."""
    return estimate(parse_request({**case["request"], "reserved": "rule"}))


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=[case["id"] for case in cases])


@named(REFUSED)
def test_combinations_that_the_real_stack_refuses_are_refused(case):
    with pytest.raises(PlanError):
        answer(case)


@named(COUNTED)
def test_a_step_is_as_traced(case):
    found, expected = answer(case), case["expected"]
    assert {name: getattr(found.parameters, name) for name in expected["parameters"]} == expected["parameters"]
    if "phases" in expected:
        peaks_are_as_traced(found.memory, case)
        components_are_as_traced(found.memory, expected["static"])


def peaks_are_as_traced(memory, case):
    """The peak is right to a millionth, each phase to half a mebibyte or a hundred-thousandth, and some to the byte."""
    expected, phases = case["expected"], {phase.name: phase.peak_bytes for phase in memory.phases}
    assert memory.peak_phase == expected["peak_phase"]
    assert memory.peak_allocated_bytes == pytest.approx(expected["peak_allocated_bytes"], rel=1e-6)
    assert phases == pytest.approx(expected["phases"], rel=1e-5, abs=SMALL)
    if "exact" in case["tags"]:
        assert phases == expected["phases"]


def components_are_as_traced(memory, static):
    """Resident tensors are exact; components sum to the peak, and their rows to them."""
    alive = Counter({component.name: component.bytes for component in memory.components})
    always = ("base_weights", "quantization_constants", "adapter_weights", "optimizer_states")
    assert {name: alive[name] for name in always} == {name: static[name] for name in always}
    assert sum(alive.values()) == memory.peak_allocated_bytes
    for component in memory.components:
        assert sum(row.bytes for row in component.rows) == component.bytes


@named(TEXTBOOK)
def test_textbook_accounting_gives_the_lessons_figures(case):
    assert answer(case).memory.peak_allocated_bytes == case["expected"]["peak_allocated_bytes"]


def test_the_stated_accuracy_names_the_number_of_traced_steps():
    assert len(TRACED) > 700
    assert "more than 700 training steps" in ACCURACY


def test_every_modeled_family_has_traced_cases():
    families = {
        case["request"]["model"]["config"]["model_type"]
        for case in TRACED
        if isinstance(case["request"]["model"], dict)
    }
    assert families == {*FAMILIES_WITH_FORWARD, *(name for name, family in FAMILIES.items() if family.tasks)}


def test_every_method_has_traced_cases():
    assert {case["request"]["method"]["name"] for case in TRACED} == set(METHODS)


def test_every_activation_has_a_traced_case():
    models = [case["request"]["model"] for case in EXACT]
    traced = {model["config"].get("hidden_act") for model in models if isinstance(model, dict)}
    assert set(ACTIVATIONS) == set(fields.ACTIVATIONS)
    assert set(ACTIVATIONS) <= traced
