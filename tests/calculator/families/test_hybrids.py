"""Families with layers that mix tokens without attention: what of them is refused or stated."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.families.lfm2.weights import CONVOLUTIONS
from calculator.inference.inference import inference
from calculator.inference.request import parse_inference
from calculator.run.request import parse_run
from calculator.run.run import whole_run

LFM2 = "LiquidAI/LFM2-350M"
METHOD = {"name": "lora", "target_modules": "all-linear"}


def problem(answer):
    with pytest.raises(PlanError) as caught:
        answer()
    (found,) = caught.value.problems
    return found.loc, found.msg


def test_a_prefix_of_keys_and_values_is_refused():
    request = parse_request({"model": LFM2, "method": {"name": "prefix"}})
    loc, message = problem(lambda: estimate(request))
    assert loc == "method.name"
    assert "use another method" in message


def test_generation_is_refused():
    loc, _ = problem(lambda: inference(parse_inference({"model": LFM2, "method": METHOD})))
    assert loc == "model"


def test_an_evaluation_is_refused():
    body = {
        "model": LFM2,
        "method": METHOD,
        "training": {"trainer": "transformers", "sequence_length": 64},
        "run": {"eval_strategy": "epoch"},
    }
    loc, _ = problem(lambda: whole_run(parse_run(body)))
    assert loc == "run.eval_strategy"


def test_an_answer_states_what_is_not_counted_of_convolutions():
    body = {"model": LFM2, "method": {"name": "full"}, "training": {"sequence_length": 64}, "reserved": "rule"}
    assert CONVOLUTIONS in estimate(parse_request(body)).assumptions
