"""A comparison is the estimates side by side, and words with sources."""

import pytest

from calculator.common.errors import PlanError
from calculator.comparison.methods import MOST_METHODS, cards, compare, parse_comparison
from calculator.devices import cuda_context, gpu, gpus, library_workspace
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.methods import METHODS, USUAL_METHODS

PLAN = {"model": "meta-llama/Llama-3.1-8B", "device": {"gpu": "rtx-4090"}, "training": {"gradient_checkpointing": True}}


def test_every_method_has_its_words_and_their_source():
    for facts in (cls.facts for cls in METHODS.values()):
        assert all((facts.label, facts.trainable, facts.inference_overhead, facts.best_for, facts.source))


def test_of_the_usual_methods_only_low_rank_updates_ia3_and_ln_tuning_can_be_merged():
    assert {name: METHODS[name].facts.mergeable for name in USUAL_METHODS} == {
        "full": None,
        "lora": True,
        "qlora": True,
        "adapter": False,
        "prefix": False,
        "prompt": False,
        "ia3": True,
        "ln_tuning": True,
    }


def test_without_methods_the_usual_ones_are_compared_with_their_defaults():
    requests = parse_comparison(PLAN)
    assert [request.method for request in requests] == [METHODS[name]() for name in USUAL_METHODS]
    assert {request.training for request in requests} == {requests[0].training}


def test_a_row_is_the_estimate_of_its_request():
    methods = [{"name": "lora", "r": 8}, {"name": "lora", "r": 64}]
    rows = compare(parse_comparison({**PLAN, "methods": methods}))
    assert [row.estimate for row in rows] == [estimate(parse_request({**PLAN, "method": method})) for method in methods]


def test_a_refused_row_has_its_problem_and_the_plan_nearest_to_it():
    prefix = compare(parse_comparison(PLAN))[list(METHODS).index("prefix")]
    assert prefix.estimate is None
    assert [problem.loc for problem in prefix.problems] == ["training.gradient_checkpointing"]
    assert prefix.alternative.changes == {"training.gradient_checkpointing": False}
    request = {**PLAN, "training": {"gradient_checkpointing": False}, "method": {"name": "prefix"}}
    assert prefix.alternative.estimate == estimate(parse_request(request))


def test_a_comparison_of_refused_methods_has_each_reason_once():
    with pytest.raises(PlanError) as refused:
        compare(parse_comparison({"model": "nobody/no-such-model"}))
    assert [problem.loc for problem in refused.value.problems] == ["model"]


@pytest.mark.parametrize(
    ("change", "locs"),
    [
        ({"method": {"name": "lora"}}, ["method"]),
        ({"methods": []}, ["methods"]),
        ({"methods": None}, ["methods"]),
        ({"methods": [{"name": "lora"}] * (MOST_METHODS + 1)}, ["methods"]),
        ({"methods": [{"name": "lora", "r": 0}, 7]}, ["methods.0.r", "methods.1"]),
        ({"training": 1, "methods": []}, ["training", "methods"]),
    ],
    ids=str,
)
def test_every_problem_of_a_request_is_named(change, locs):
    with pytest.raises(PlanError) as refused:
        parse_comparison({**PLAN, **change})
    assert [problem.loc for problem in refused.value.problems] == locs


@pytest.fixture(scope="module")
def plan():
    return estimate(parse_request({**PLAN, "method": {"name": "qlora"}}))


def test_a_plan_is_compared_with_every_gpu_smallest_first(plan):
    fits = cards(plan)
    assert {fit.gpu.id for fit in fits} == {card.id for card in gpus()}
    assert [fit.usable_bytes for fit in fits] == sorted(fit.usable_bytes for fit in fits)


def test_a_plan_with_flash_attention_is_compared_only_with_gpus_that_have_it():
    flash = {**PLAN, "method": {"name": "lora"}, "training": {"attention": "flash_attention_2"}}
    answer = estimate(parse_request(flash))
    compared = {fit.gpu.id for fit in cards(answer, "flash_attention_2")}
    assert compared == {card.id for card in gpus() if card.has_flash}
    assert {"t4", "p40"}.isdisjoint(compared)
    for name in {card.id for card in gpus()} - compared:
        with pytest.raises(PlanError, match="FlashAttention 2 needs compute capability"):
            estimate(parse_request({**flash, "device": {"gpu": name}}))


def test_against_its_own_gpu_a_plan_has_its_own_verdict(plan):
    mine = next(fit for fit in cards(plan) if fit.gpu.id == "rtx-4090")
    assert mine == plan.fit


def test_as_many_gpus_of_another_gpu_are_needed_as_of_one_that_the_request_names():
    device = {"count": 4, "sharding": "fsdp", "gpu": "rtx-4090"}
    request = parse_request({**PLAN, "method": {"name": "full"}, "reserved": "rule", "device": device})
    plan = estimate(request)
    mine = next(fit for fit in cards(plan, device=request.device) if fit.gpu.id == "rtx-4090")
    assert mine.gpus_needed == plan.fit.gpus_needed >= 4


@pytest.mark.parametrize(("length", "verdicts"), [(2048, {"fits", "tight"}), (4096, {"fits", "does_not_fit"})])
def test_near_the_limit_of_a_gpu_the_run_is_replayed_there(length, verdicts):
    training = {"gradient_checkpointing": True, "sequence_length": length}
    body = {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "full"}, "training": training}
    near = [fit for fit in cards(estimate(parse_request(body))) if fit.outcome is not None]
    assert {str(fit.verdict) for fit in near} == verdicts
    for fit in [fit for fit in near if fit.gpu.has_flash][::5]:
        there = estimate(parse_request({**body, "device": {"gpu": fit.gpu.id}})).fit
        assert (there, there.retries, there.minimum_bytes) == (fit, fit.retries, fit.minimum_bytes)


def test_by_the_rule_no_gpu_is_replayed():
    ruled = estimate(parse_request({**PLAN, "method": {"name": "qlora"}, "reserved": "rule"}))
    assert all(fit.outcome is None for fit in cards(ruled))


@pytest.mark.parametrize("name", ["h100-sxm5-80gb", "l4", "mi300x"])
def test_against_another_gpu_its_own_workspaces_and_context_count(plan, name):
    card = gpu(name)
    fit = next(fit for fit in cards(plan) if fit.gpu.id == name)
    tensors = plan.memory.peak_reserved_bytes - plan.memory.library_workspace_bytes
    overhead = sum(part.bytes for part in library_workspace(card)) + cuda_context(card).bytes
    assert fit.headroom_bytes == card.usable_bytes - tensors - overhead
