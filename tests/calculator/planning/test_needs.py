"""Needs are read strictly, and those that contradict each other are refused with the way out."""

import pytest

from calculator.common.errors import PlanError
from calculator.planning.needs import USUAL_PRIORITIES, Needs
from calculator.planning.request import MOST_OF_A_KIND, parse_plan

PLAN = {"model": "meta-llama/Llama-3.1-8B", "device": {"gpu": "rtx-4090"}}


def problems(body):
    with pytest.raises(PlanError) as refused:
        parse_plan(body)
    return [problem.loc for problem in refused.value.problems]


def test_a_model_and_a_gpu_are_enough():
    request = parse_plan(PLAN)
    assert request.needs == Needs()
    assert [model.id for model in request.models] == ["meta-llama/Llama-3.1-8B"]
    assert [device.requested.gpu for device in request.devices] == ["rtx-4090"]
    assert not request.length_given


def test_missing_priorities_follow_those_named():
    assert Needs(priorities=("memory",)).order == ("memory", "quality", "speed")
    assert Needs().order == USUAL_PRIORITIES


@pytest.mark.parametrize(
    ("needs", "locs"),
    [
        ({"must_merge": True, "frozen_base": True}, ["needs.must_merge"]),
        ({"must_merge": True, "tasks": 20, "switch_per_request": True}, ["needs.must_merge"]),
        ({"switch_per_request": True}, ["needs.tasks"]),
        ({"priorities": ["price"]}, ["needs.priorities"]),
        ({"priorities": []}, ["needs.priorities"]),
        ({"priorities": ["speed", "speed"]}, ["needs.priorities"]),
        ({"priorities": ["speed", "memory", "speed"]}, ["needs.priorities"]),
        ({"max_trainable_fraction": 1.5}, ["needs.max_trainable_fraction"]),
        ({"effective_batch_size": 0, "tasks": "20"}, ["needs.effective_batch_size", "needs.tasks"]),
        ({"seq_len": 5}, ["needs.seq_len"]),
    ],
    ids=str,
)
def test_needs_that_can_not_be_met_are_named(needs, locs):
    assert problems({**PLAN, "needs": needs}) == locs


@pytest.mark.parametrize(
    ("change", "locs"),
    [
        ({"device": {}}, ["device.gpu"]),
        ({"device": {"gpu": "no-such-card"}}, ["device.gpu"]),
        ({"device": {"gpu": "rtx-4090", "count": 4, "sharding": "none"}}, ["device.count"]),
        (
            {"device": None, "devices": [{"gpu": "l4"}, {"gpu": "l4", "count": 2, "sharding": "none"}]},
            ["devices.1.count"],
        ),
        ({"devices": [{"gpu": "l4"}]}, ["device"]),
        ({"device": None}, ["device"]),
        ({"device": None, "devices": [{"gpu": "l4"}, 7]}, ["devices.1"]),
        ({"model": None}, ["model"]),
        ({"model": None, "models": []}, ["models"]),
        ({"model": None, "models": ["gpt2"] * (MOST_OF_A_KIND + 1)}, ["models"]),
        ({"model": {"parameters": 7}}, ["model.parameters"]),
        ({"model": None, "models": ["gpt2"] * 8, "device": None, "devices": [{"gpu": "l4"}] * 8}, ["devices"]),
        ({"method": {"name": "lora"}}, ["method"]),
    ],
    ids=str,
)
def test_every_problem_of_a_request_is_named(change, locs):
    assert problems({**PLAN, **change}) == locs
