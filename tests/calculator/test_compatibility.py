"""What the real stack refuses, and what is not modelled, is refused with the way out."""

import pytest

from calculator.compatibility import SWITCHES
from calculator.errors import PlanError
from calculator.estimate import estimate
from calculator.request import parse_request

TINY = {"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 2, "num_key_value_heads": 2}


def of(**keys):
    return parse_request({"model": {"config": {**TINY, **keys}}, "method": {"name": "lora"}})


@pytest.mark.parametrize("name", SWITCHES)
def test_a_key_that_changes_every_familys_step_is_refused(name):
    value, _ = SWITCHES[name]
    with pytest.raises(PlanError, match="leave it out") as caught:
        estimate(of(**{name: value}))
    (problem,) = caught.value.problems
    assert (problem.loc, problem.input) == (f"model.config.{name}", value)


@pytest.mark.parametrize("name", SWITCHES)
def test_the_same_key_with_its_usual_value_changes_nothing(name):
    value, _ = SWITCHES[name]
    assert estimate(of(**{name: not value})).memory == estimate(of()).memory
