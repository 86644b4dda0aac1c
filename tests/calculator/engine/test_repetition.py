"""The interpreted layers represent all others: interpreting every layer gives the same answer."""

import json

import pytest

from calculator.engine.repetition import Repetition, repetition
from calculator.estimation.estimate import training_step
from calculator.estimation.request import parse_request
from calculator.estimation.timeline import timeline
from calculator.layers import sharding_hooks
from tests.calculator.random_plans import plans
from tests.paths import CASE_FILES

CASES = [json.loads(line) for line in (CASE_FILES / "public.jsonl").read_text().splitlines()]
#: One traced case of every family and method.
CHOSEN = {
    (case["request"]["model"]["config"]["model_type"], case["request"]["method"]["name"]): case
    for case in CASES
    if "phases" in case["expected"] and isinstance(case["request"]["model"], dict)
}


def phases(case):
    request = parse_request(case["request"])
    return {peak.phase: peak.bytes for peak in training_step(request).peaks()}


def one_by_one(kinds):
    return Repetition(numbers=tuple(range(len(kinds))), start=len(kinds), end=len(kinds), copies=0)


def test_equal_layers_are_interpreted_twice():
    assert repetition("aaaaaaaa") == Repetition(numbers=(0, 1), start=1, end=2, copies=6)


def test_a_pattern_of_layers_is_interpreted_twice_with_the_incomplete_period():
    found = repetition("ssfssfssfss")
    assert found == Repetition(numbers=(0, 1, 2, 3, 4, 5, 9, 10), start=3, end=6, copies=1)


def test_layers_before_the_pattern_are_interpreted():
    assert repetition("dddmmmmm") == Repetition(numbers=(0, 1, 2, 3, 4), start=4, end=5, copies=3)


def test_the_first_period_represents_all_if_no_other_layer_precedes_it():
    found = repetition("sfsfsfsfs").from_first_period()
    assert found == Repetition(numbers=(0, 1, 8), start=0, end=2, copies=3)
    assert found.last_represented(1) == 7


def test_a_first_period_after_other_layers_represents_only_itself():
    assert repetition("dmmmm").from_first_period() == repetition("dmmmm")
    assert repetition("abcd").from_first_period() == repetition("abcd")


def test_layers_without_a_pattern_are_all_interpreted():
    assert repetition("abcd") == one_by_one("abcd")


def test_a_single_layer_is_interpreted():
    assert repetition("a") == one_by_one("a")


@pytest.mark.parametrize("case", CHOSEN.values(), ids=["-".join(key) for key in CHOSEN])
def test_interpreting_every_layer_gives_the_same_peaks(case, monkeypatch):
    folded = phases(case)
    monkeypatch.setattr(sharding_hooks, "repetition", one_by_one)
    assert phases(case) == folded


def test_a_checkpointed_layer_interpreted_once_gives_what_two_give(monkeypatch):
    chosen = [request for request in plans(3, 40) if request.training.gradient_checkpointing]
    once = [alive(request) for request in chosen]
    monkeypatch.setattr(Repetition, "from_first_period", lambda self: self)
    monkeypatch.setattr(Repetition, "begins_with_period", False)
    assert len(chosen) > 15
    for request, expected in zip(chosen, once, strict=True):
        assert alive(request) == expected, request


def alive(request):
    """Each phase's peak, the tensors alive there, and the timeline."""
    step = training_step(request)
    peaks = step.peaks()
    return [(peak.phase, peak.bytes, peak.operation, peak.alive.kinds()) for peak in peaks], timeline(step, peaks)
