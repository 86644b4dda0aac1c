"""Intervals of a run's speed, from published runs near it."""

from dataclasses import replace
from math import isclose
from statistics import mean

import pytest

from app.presentation.speed_text import accuracy
from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, model_of
from calculator.estimation.request import parse_request
from calculator.run.request import parse_run
from calculator.run.run import whole_run
from calculator.speed.interval import coverage, similar_runs, speed_of
from calculator.speed.prediction import LEVEL, predicted
from calculator.speed.prices import hour_price, list_prices
from calculator.speed.published import published_runs, tokens_of_step
from calculator.speed.step_cost import step_cost
from tests.paths import ROOT

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
    assert {run.card for run in found.runs} == {"a100-sxm4-80gb"}
    grouped = [[run.efficiency for run in found.runs if run.source.name == name] for name in sources(found.runs)]
    assert len(grouped) >= 3
    assert found.efficiency == predicted(grouped)


def sources(runs):
    return dict.fromkeys(run.source.name for run in runs)


def test_the_interval_contains_the_published_speed_of_the_same_run():
    (published,) = (run.tokens_per_second for run in published_runs() if run.place == "Mistral-7B-v0.1, lora, batch 4")
    found = speed().tokens_per_second
    assert found.low <= published <= found.high


def test_more_micro_batches_take_more_time_at_the_same_speed():
    one, four = speed(), speed(training={"gradient_accumulation_steps": 4})
    assert isclose(four.seconds_per_step.low, 4 * one.seconds_per_step.low)
    assert isclose(four.tokens_per_second.high, one.tokens_per_second.high)


def test_a_gpu_with_fewer_than_three_sources_has_the_interval_of_all_gpus():
    cards = {run.card for run in speed(device={"gpu": "rtx-4090"}).runs}
    assert len(cards) > 1


def test_a_run_faster_than_its_gpu_counts_nowhere():
    impossible = [run for run in published_runs() if not run.is_possible]
    assert {run.card for run in impossible} == {"rtx-a6000"}
    for run in impossible:
        assert run not in similar_runs(published_runs(), run.rated_seconds, run.card)


def test_two_sources_are_no_interval():
    two = [run for run in published_runs() if run.source.name in ("fms_acceleration", "vectorlm")]
    assert similar_runs(two, two[0].rated_seconds, two[0].card) == ()


def test_attention_in_float32_is_refused_on_a_gpu_whose_float32_speed_is_not_known():
    method = {"name": "qlora"}
    with pytest.raises(PlanError) as caught:
        speed(method=method, device={"gpu": "b200"})
    assert "autocast" in caught.value.problems[0].msg
    assert speed(method=method, device={"gpu": "b200"}, training={"autocast": "bfloat16"}).runs


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
    total, *of_sources = coverage()
    assert total.runs == sum(of.runs for of in of_sources) > 0
    assert total.covered == sum(of.covered for of in of_sources)
    assert total.runs + total.refused == sum(run.counts for run in published_runs())
    assert {of.source for of in of_sources} == {run.source.name for run in published_runs() if run.counts}


def test_the_coverage_leaves_the_source_out():
    """An interval of the other sources is wider than one with the source, whose effect it does not know."""
    run = next(run for run in published_runs() if run.source.name == "vectorlm")
    others = [other for other in published_runs() if other.source.name != "vectorlm"]
    for found in (
        similar_runs(others, run.rated_seconds, run.card),
        similar_runs(published_runs(), run.rated_seconds, run.card),
    ):
        grouped = [[other.efficiency for other in found if other.source.name == name] for name in sources(found)]
        assert ("vectorlm" in sources(found)) == (found != similar_runs(others, run.rated_seconds, run.card))
        assert predicted(grouped).low <= run.efficiency <= predicted(grouped).high


def test_runs_with_deterministic_algorithms_count_in_no_interval():
    left_out = [run for run in published_runs() if run.source.left_out]
    assert {run.source.name for run in left_out} == {"universal_llm_trainer"}
    for run in left_out:
        found = similar_runs(published_runs(), run.rated_seconds, run.card)
        assert run not in found
        grouped = [[other.efficiency for other in found if other.source.name == name] for name in sources(found)]
        assert run.efficiency < predicted(grouped).low
    assert "universal_llm_trainer are excluded: their configuration files set deterministic" in accuracy()


def test_a_source_counts_once_in_the_share_of_all():
    total, *of_sources = coverage()
    assert total.share == mean(of.share for of in of_sources if of.share is not None)
    assert total.sources == sum(of.share is not None for of in of_sources)
    assert total.share >= LEVEL


def test_the_documented_coverage_is_the_computed_one():
    text = (ROOT / "docs" / "accuracy" / "published.md").read_text(encoding="utf-8")
    page = " ".join(text.replace("\n> ", " ").split())
    assert accuracy() in page
    assert f"from {len(published_runs())} published speeds on one GPU" in page


def run_of(**changes):
    return whole_run(parse_run({**body(**changes), "run": {"max_steps": 500}}))


def test_a_runs_hours_are_its_steps_and_its_cost_is_the_hours_at_the_price():
    time = run_of(device={"price_per_hour": 2.5}).time
    assert time.steps == 500
    assert isclose(time.hours.low * 3600, 500 * time.speed.seconds_per_step.low)
    assert isclose(time.cost.high, 2.5 * time.hours.high)


def test_list_prices_have_a_date_and_a_source():
    listed = run_of().time.list_costs
    assert [card.price.per_hour for card in listed] == sorted(card.price.per_hour for card in listed) != []
    for card in listed:
        assert card.price.date
        assert card.price.address.startswith("https://")


def test_a_run_without_a_speed_has_the_reason_and_everything_else():
    answer = run_of(device={"gpu": None, "memory_bytes": 80 << 30})
    assert answer.time is None
    assert answer.time_refusal.startswith("device.gpu: a speed needs a GPU")
    assert answer.phases


def test_a_price_in_the_request_replaces_the_list_prices():
    device = parse_request(body(device={"price_per_hour": 1.0})).device
    assert hour_price(device).per_hour == 1
    listed = hour_price(replace(device, price_per_hour=None))
    assert listed.per_hour == list_prices("a100-sxm4-80gb")[0].per_hour
    assert "2026-11-09" in listed.origin


def test_a_price_changes_no_memory():
    priced, plain = (estimate(parse_request(body(device=changes))) for changes in ({"price_per_hour": 3.0}, {}))
    assert priced.memory == plain.memory
