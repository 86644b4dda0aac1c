"""Requests that differ in sizes alone share symbolic traces: each answer is that of a request by itself."""

import random
from dataclasses import replace

import pytest

from calculator.architecture.dimension import symbolic
from calculator.common.errors import PlanError
from calculator.engine.symbolic_sizes import SymInt
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from calculator.families import FAMILIES_WITH_FORWARD
from calculator.inputs.size_settings import resized
from calculator.training_step import run, size_cache, symbolic_trace
from tests.calculator.training_step.test_first_layer import SMALL
from validation.random_grid.random_requests import random_request

LORA = {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "lora", "target_modules": "all-linear"}}

BATCHES = (1, 1, 2, 3, 4, 8, 16)
LENGTHS = (2, 3, 16, 17, 64, 100, 128, 256, 512, 1000, 1024, 2048, 4096)
OWN = (1, 2, 3, 8, 16, 64, 128)


def full_answer(request, series=None):
    """The answer with every row and its dimensions' names, or the problems of a refused request."""
    try:
        answer = estimate(request, series or SeriesCache())
    except PlanError as error:
        return error.problems
    rows = [[(row, row.shape and symbolic(row.shape)) for row in part.rows] for part in answer.memory.components]
    return answer, rows, answer.memory.timeline


def with_sizes(request, chance):
    training = replace(
        request.training, micro_batch_size=chance.choice(BATCHES), sequence_length=chance.choice(LENGTHS)
    )
    return replace(request, training=training, method=resized(request.method, lambda _: chance.choice(OWN)))


@pytest.fixture
def counted(monkeypatch):
    """The number of runs of a series, with concrete and with symbolic sizes."""
    runs = {"concrete": 0, "symbolic": 0}

    def counting(function):
        def run(context, **options):
            is_symbolic = isinstance(context.training.sequence_length, SymInt)
            runs["symbolic" if is_symbolic else "concrete"] += 1
            return function(context, **options)

        return run

    monkeypatch.setattr(run, "interpreted", counting(run.interpreted))
    monkeypatch.setattr(symbolic_trace, "interpreted", counting(symbolic_trace.interpreted))
    return runs


def answered(series, **changes):
    """A request's answer in a series, with changes of its training and its method."""
    body = {**LORA, "method": {**LORA["method"], **changes.pop("method", {})}, "training": changes}
    return estimate(parse_request(body), series)


@pytest.mark.parametrize(
    ("seed", "reserved", "traces_first"),
    [(0, "rule", False), (1, "rule", True), (2, "rule", True), (3, "replay", False), (4, "replay", True)],
)
def test_each_request_of_a_series_has_the_answer_of_a_single_request(seed, reserved, traces_first):
    chance, traced = random.Random(seed), 0
    count = 25 if reserved == "rule" else 5
    for number in range(count):
        request = parse_request(random_request(4000 + seed, number, FAMILIES_WITH_FORWARD) | {"reserved": reserved})
        series = SeriesCache(traces_first=traces_first)
        for _ in range(5):
            plan = with_sizes(request, chance)
            assert full_answer(plan, series) == full_answer(plan), (request.model, plan.method, plan.training)
        traced += any(run.traces for run in series.traces.runs.values())
    assert traced > count / 2


def test_requests_that_share_a_trace_are_run_twice_in_all(counted):
    series = SeriesCache()
    for length in (512, 1024, 1500, 2048, 4096):
        for r in (4, 8, 24):
            answered(series, sequence_length=length, micro_batch_size=2, method={"r": r})
    assert counted == {"concrete": 1, "symbolic": 1}


def test_all_requests_share_the_trace_of_the_first(counted):
    series = SeriesCache(traces_first=True)
    lengths = (1024, 512, 512, 1000, 2048, 4096)
    plans = [[answered(series, sequence_length=length, micro_batch_size=2) for _ in range(2)] for length in lengths]
    assert counted == {"concrete": 0, "symbolic": 1}
    # To compare answers reads their timelines.
    assert all(plan == again for plan, again in plans)


def test_runs_share_their_copies_unless_kinds_of_the_same_name_are_equal():
    series = SeriesCache(traces_first=True)
    for length in (100, 1000, 1024, 1025):
        answered(series, sequence_length=length, method={"r": 512})
    (trace,) = series.traces.runs[False, False, True].traces
    assert len(trace.known) < 4
    equal = answered(series, sequence_length=2048, method={"r": 2048})
    assert equal == answered(SeriesCache(), sequence_length=2048, method={"r": 2048})


def test_a_request_and_those_of_its_sizes_are_run_once_with_their_own_sizes(counted):
    series = SeriesCache()
    for gpu in ("a100-sxm4-80gb", "a100-sxm4-80gb", "h100-sxm5-80gb"):
        estimate(parse_request({**LORA, "device": {"gpu": gpu}}), series)
    assert counted == {"concrete": 1, "symbolic": 0}


def test_a_batch_of_one_is_traced_separately(counted):
    series = SeriesCache()
    for batch in (4, 2, 1, 3, 1, 8):
        answered(series, micro_batch_size=batch)
    assert counted == {"concrete": 1, "symbolic": 2}


def test_another_option_or_model_clears_the_cache(counted):
    series = SeriesCache()
    for padding in (False, True, False):
        answered(series, padding=padding)
    estimate(parse_request({**LORA, "model": "meta-llama/Llama-3.2-3B"}), series)
    assert counted == {"concrete": 4, "symbolic": 0}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"device": {"gpu": "a100-sxm4-80gb"}}, {"device": {"gpu": "t4"}}),
        ({}, {"method": {**LORA["method"], "use_dora": True}}),
        ({}, {"method": {"name": "full"}}),
        ({}, {"training": {"dtype": "float16", "attention": "eager"}}),
    ],
    ids=["card", "option", "method", "training"],
)
def test_requests_with_different_operations_share_no_trace(before, after):
    body, series = {**LORA, "training": {"dtype": "float16"}}, SeriesCache()
    for change in (before, before, after):
        plan = parse_request({**body, **change})
        assert full_answer(plan, series) == full_answer(plan)
    assert full_answer(parse_request({**body, **before})) != full_answer(plan)


def test_padded_batches_share_traces_though_a_kernel_divides_by_their_size(counted):
    body, series = {"model": "google/gemma-2b", "method": {"name": "lora"}}, SeriesCache()
    for batch in (2, 3, 4, 5, 8, 9):
        plan = parse_request({**body, "training": {"padding": True, "micro_batch_size": batch}})
        assert estimate(plan, series) == estimate(plan, SeriesCache())
    assert counted["symbolic"] <= 2


def test_a_sequence_longer_than_the_window_has_another_trace():
    request, series = parse_request({"model": "mistralai/Mistral-7B-v0.1", "method": {"name": "lora"}}), SeriesCache()
    for length, traces in ((1024, 0), (1025, 1), (2048, 1), (4096, 2), (5000, 2), (512, 2)):
        estimate(replace(request, training=replace(request.training, sequence_length=length)), series)
        assert len(series.traces.runs[False, False, True].traces) == traces


def test_traces_with_and_without_the_first_layer_are_kept_if_it_must_be_interpreted(counted):
    method = {"name": "lora", "r": 64, "target_modules": "all-linear", "modules_to_save": ["q_proj"]}
    request, series = parse_request({"model": {"config": SMALL}, "method": method}), SeriesCache()
    for batch in (2, 3, 4, 5):
        estimate(
            replace(request, training=replace(request.training, micro_batch_size=batch, sequence_length=16)), series
        )
    assert counted == {"concrete": 2, "symbolic": 2}


def test_the_number_of_traces_is_limited(counted, monkeypatch):
    monkeypatch.setattr(size_cache, "MAX_TRACES", 1)
    series = SeriesCache()
    for batch in (4, 2, 1, 3, 1):
        answered(series, micro_batch_size=batch)
    assert counted == {"concrete": 3, "symbolic": 1}
    assert len(series.traces.runs[False, False, True].traces) == 1
