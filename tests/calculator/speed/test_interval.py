"""Intervals of a run's speed, from published runs near it."""

from dataclasses import replace
from math import isclose

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, model_of
from calculator.estimation.request import parse_request
from calculator.run.request import parse_run
from calculator.run.run import whole_run
from calculator.speed.interval import coverage, near, speed_of
from calculator.speed.prices import hour_price, list_prices
from calculator.speed.published import published_runs, tokens_of_step
from calculator.speed.step_cost import step_cost

MISTRAL = {
    "model": "mistralai/Mistral-7B-v0.1",
    "method": {"name": "lora", "r": 16, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    "training": {"micro_batch_size": 4, "sequence_length": 4096, "gradient_checkpointing": True},
    "device": {"gpu": "a100-sxm4-80gb"},
    "reserved": "rule",
}


def body(**changes):
    """The request with other values in its parts."""
    return {
        part: {**value, **changes.get(part, {})} if isinstance(value, dict) else value
        for part, value in MISTRAL.items()
    }


def speed(**changes):
    request = parse_request(body(**changes))
    return speed_of(request, step_cost(model_of(request.model), request, estimate(request)))


def test_an_efficiency_is_the_rated_time_over_the_measured_one():
    for run in published_runs():
        request = parse_request({**run.request, "reserved": "rule"})
        measured = tokens_of_step(request) / run.tokens_per_second / request.training.gradient_accumulation_steps
        assert isclose(run.efficiency, run.rated_seconds / measured)


def test_the_interval_is_that_of_the_published_runs_near_the_request():
    found = speed()
    assert {run.kind for run in found.runs} == {"frozen in 16 bits"}
    assert {run.card for run in found.runs} == {"a100-sxm4-80gb"}
    assert len({run.source.name for run in found.runs}) >= 2
    reached = [run.efficiency for run in found.runs]
    assert (found.efficiency.low, found.efficiency.high) == (min(reached), max(reached))


def test_the_interval_contains_the_published_speed_of_the_same_run():
    (published,) = (run.tokens_per_second for run in published_runs() if run.place == "Mistral-7B-v0.1, lora, batch 4")
    found = speed().tokens_per_second
    assert found.low <= published <= found.high


def test_more_micro_batches_take_more_time_at_the_same_speed():
    one, four = speed(), speed(training={"gradient_accumulation_steps": 4})
    assert isclose(four.seconds_per_step.low, 4 * one.seconds_per_step.low)
    assert isclose(four.tokens_per_second.high, one.tokens_per_second.high)


def test_a_card_without_two_sources_of_its_own_has_the_interval_of_all_cards():
    cards = {run.card for run in speed(device={"gpu": "rtx-4090"}).runs}
    assert len(cards) > 1


def test_a_run_faster_than_its_card_counts_nowhere():
    impossible = [run for run in published_runs() if not run.is_possible]
    assert {run.card for run in impossible} == {"rtx-a6000"}
    for run in impossible:
        assert run not in near(published_runs(), run.kind, run.rated_seconds, run.card)


def test_one_source_is_no_interval():
    one = [run for run in published_runs() if run.source.name == "qwen"]
    assert near(one, one[0].kind, one[0].rated_seconds, one[0].card) == ()


@pytest.mark.parametrize(
    ("changes", "loc"),
    [
        ({"device": {"gpu": None, "memory_bytes": 80 << 30}}, "device.gpu"),
        ({"device": {"gpu": "quadro-rtx-6000"}}, "device.gpu"),
        ({"device": {"count": 2, "sharding": "ddp"}}, "device.count"),
        ({"training": {"dtype": "float32"}}, "training.dtype"),
        ({"training": {"images": {"images_per_sequence": 1}}}, "training.images"),
        ({"training": {"micro_batch_size": 4096}}, "training.micro_batch_size"),
        ({"training": {"sequence_lengths": [[512, 10], [4096, 2]]}}, "training.sequence_lengths"),
    ],
)
def test_a_run_that_no_published_one_is_near_is_refused(changes, loc):
    with pytest.raises(PlanError) as caught:
        speed(**changes)
    assert [problem.loc for problem in caught.value.problems] == [loc]


def test_the_coverage_of_all_sources_is_the_sum_of_each():
    every, *each = coverage()
    assert every.runs == sum(of.runs for of in each) > 0
    assert every.covered == sum(of.covered for of in each)
    assert every.runs + every.refused == sum(run.is_possible for run in published_runs())
    assert {of.source for of in each} == {run.source.name for run in published_runs()}


def test_the_coverage_leaves_the_source_out():
    """Of a source whose runs are all less efficient than those of the others, no speed is covered."""
    runs = [run for run in published_runs() if run.source.name == "universal_llm_trainer" and run.kind == "full"]
    others = [
        run.efficiency
        for run in published_runs()
        if run.source.name not in ("universal_llm_trainer", "peft_metamathqa") and run.kind == "full"
    ]
    assert max(run.efficiency for run in runs) < min(others)
    assert next(of for of in coverage() if of.source == "universal_llm_trainer").covered < len(runs)


def run_of(**changes):
    return whole_run(parse_run({**body(**changes), "run": {"max_steps": 500}}))


def test_a_runs_hours_are_its_steps_and_its_cost_is_the_hours_at_the_price():
    time = run_of(device={"price_per_hour": 2.5}).time
    assert time.steps == 500
    assert isclose(time.hours.low * 3600, 500 * time.speed.seconds_per_step.low)
    assert isclose(time.cost.high, 2.5 * time.hours.high)


def test_list_prices_have_a_date_and_a_source():
    listed = run_of().time.list_costs
    assert [each.price.per_hour for each in listed] == sorted(each.price.per_hour for each in listed) != []
    for each in listed:
        assert each.price.date
        assert each.price.address.startswith("https://")


def test_a_run_without_a_speed_has_the_reason_and_everything_else():
    answer = run_of(device={"gpu": None, "memory_bytes": 80 << 30})
    assert answer.time is None
    assert answer.time_refusal.startswith("device.gpu: a speed needs a card")
    assert answer.phases


def test_a_price_of_the_request_comes_before_a_list_price():
    device = parse_request(body(device={"price_per_hour": 1.0})).device
    assert hour_price(device).per_hour == 1
    listed = hour_price(replace(device, price_per_hour=None))
    assert listed.per_hour == list_prices("a100-sxm4-80gb")[0].per_hour
    assert "2026-05-07" in listed.origin


def test_a_price_changes_no_memory():
    priced, plain = (estimate(parse_request(body(device=changes))) for changes in ({"price_per_hour": 3.0}, {}))
    assert priced.memory == plain.memory
