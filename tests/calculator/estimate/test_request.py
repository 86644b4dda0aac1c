"""A request is read strictly, and what is wrong with it is told in the same words each time."""

import os
import subprocess
import sys

import pytest

from calculator.common.errors import PlanError
from calculator.estimate.estimate import estimate
from calculator.estimate.request import parse_request
from calculator.limits.limits import limit, parse_limit

COUNT = {"model": {"parameters": 1000}, "method": {"name": "lora"}, "device": {"gpu": "rtx-4090"}}

ASKED = """
from calculator.common.errors import PlanError
from calculator.estimate.request import parse_request
try:
    parse_request({"model": "gpt2", "method": {"name": "lora"}, "colour": 1})
except PlanError as error:
    print(error)
"""


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_the_known_fields_are_told_in_one_order_in_every_process(seed):
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    told = subprocess.run([sys.executable, "-c", ASKED], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip().endswith("known fields are model, method, training, device, reserved, accounting")


@pytest.mark.parametrize("accounting", ["exact", "textbook"])
def test_what_a_bare_count_serves_is_true_of_every_request(accounting):
    body = {**COUNT, "accounting": accounting}
    for ask in (lambda: limit(parse_limit({**body, "solve_for": "r"})), lambda: estimate(parse_request(body))):
        with pytest.raises(PlanError) as told:
            ask()
        (problem,) = told.value.problems
        assert problem.loc == "model.parameters"
        assert "serves full fine-tuning" in problem.msg
        assert "an id or a config" in problem.msg
        assert 'needs "accounting"' not in problem.msg
