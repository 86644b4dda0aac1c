"""Estimates compared with figures traced from the real modules (tests/cases/README.md)."""

import json
from collections import Counter

import pytest

from calculator.common.errors import PlanError
from calculator.estimate.estimate import estimate
from calculator.estimate.remarks import ACCURACY
from calculator.estimate.request import parse_request
from calculator.families import FAMILIES_WITH_FORWARD, fields
from calculator.layers.activation import ACTIVATIONS
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
    return estimate(parse_request(case["request"]))


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=[case["id"] for case in cases])


@named(REFUSED)
def test_what_the_real_stack_refuses_is_refused(case):
    with pytest.raises(PlanError):
        answer(case)


@named(COUNTED)
def test_parameter_counts_are_exact(case):
    counts = answer(case).parameters
    assert {name: getattr(counts, name) for name in case["expected"]["parameters"]} == case["expected"]["parameters"]


@named(TRACED)
def test_the_peak_is_right_to_a_millionth(case):
    memory = answer(case).memory
    assert memory.peak_phase == case["expected"]["peak_phase"]
    assert memory.peak_allocated_bytes == pytest.approx(case["expected"]["peak_allocated_bytes"], rel=1e-6)


@named(TRACED)
def test_every_phase_is_right_to_half_a_mebibyte_or_a_hundred_thousandth(case):
    phases = {phase.name: phase.peak_bytes for phase in answer(case).memory.phases}
    assert phases == pytest.approx(case["expected"]["phases"], rel=1e-5, abs=SMALL)


@named(EXACT)
def test_what_an_estimate_once_got_wrong_is_right_to_the_byte(case):
    assert {phase.name: phase.peak_bytes for phase in answer(case).memory.phases} == case["expected"]["phases"]


@named(TRACED)
def test_components_sum_to_the_peak_and_their_rows_to_them(case):
    memory = answer(case).memory
    assert sum(component.bytes for component in memory.components) == memory.peak_allocated_bytes
    for component in memory.components:
        assert sum(row.bytes for row in component.rows) == component.bytes


@named(TRACED)
def test_resident_tensors_are_exact(case):
    expected = case["expected"]["static"]
    alive = Counter({component.name: component.bytes for component in answer(case).memory.components})
    always = ("base_weights", "quantization_constants", "adapter_weights", "optimizer_states")
    assert {name: alive[name] for name in always} == {name: expected[name] for name in always}


@named(TEXTBOOK)
def test_textbook_accounting_gives_the_lessons_figures(case):
    assert answer(case).memory.peak_allocated_bytes == case["expected"]["peak_allocated_bytes"]


def test_the_stated_accuracy_names_the_number_of_traced_steps():
    assert len(TRACED) > 700
    assert "more than 700 training steps" in ACCURACY


def test_every_modelled_family_has_traced_cases():
    families = {
        case["request"]["model"]["config"]["model_type"]
        for case in TRACED
        if isinstance(case["request"]["model"], dict)
    }
    assert families == set(FAMILIES_WITH_FORWARD)


def test_every_activation_has_a_traced_case():
    models = [case["request"]["model"] for case in EXACT]
    traced = {model["config"].get("hidden_act") for model in models if isinstance(model, dict)}
    assert set(ACTIVATIONS) == set(fields.ACTIVATIONS)
    assert set(ACTIVATIONS) <= traced
