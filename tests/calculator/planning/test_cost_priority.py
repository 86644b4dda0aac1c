"""Plans that rank by cost."""

import pytest

from calculator.common.errors import PlanError
from calculator.planning.plan import plan
from calculator.planning.request import parse_plan

BODY = {
    "model": "meta-llama/Llama-3.2-1B",
    "device": {"gpu": "a100-sxm4-80gb"},
    "needs": {"priorities": ["cost", "quality"], "sequence_length": 1024},
    "reserved": "rule",
}


def test_configurations_are_ordered_by_the_middle_of_their_cost():
    answer = plan(parse_plan(BODY))
    costs = [configuration.token_cost for configuration in answer.plans[0].configurations]
    middles = [cost.middle for cost in costs if cost is not None]
    assert len(middles) > 1
    assert middles == sorted(middles)
    assert costs[len(middles) :] == [None] * (len(costs) - len(middles))
    assert any("the list price of RunPod Secure Cloud on 2026-11-09" in assumption for assumption in answer.assumptions)


def test_a_price_of_the_request_scales_the_costs():
    one, two = (
        plan(parse_plan({**BODY, "device": {**BODY["device"], "price_per_hour": price}})).plans[0].configurations[0]
        for price in (1, 2)
    )
    assert two.token_cost.per_million_tokens.low == pytest.approx(2 * one.token_cost.per_million_tokens.low)


def test_other_priorities_need_no_price():
    answer = plan(parse_plan({**BODY, "device": {"gpu": "rtx-4060"}, "needs": {"priorities": ["speed"]}}))
    assert {configuration.token_cost for configuration in answer.plans[0].configurations} == {None}


@pytest.mark.parametrize(
    ("cards", "loc"),
    [
        ({"device": {"gpu": "rtx-4060"}}, "device.price_per_hour"),
        ({"devices": [{"gpu": "a100-sxm4-80gb"}, {"memory_bytes": 24 << 30}]}, "devices.1.price_per_hour"),
    ],
)
def test_a_gpu_without_a_price_is_refused(cards, loc):
    body = {key: value for key, value in BODY.items() if key != "device"}
    with pytest.raises(PlanError) as caught:
        plan(parse_plan({**body, **cards}))
    assert [problem.loc for problem in caught.value.problems] == [loc]
