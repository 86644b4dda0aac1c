"""Combinations that the real stack refuses or that are not modeled are refused with the way out."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.compatibility import SWITCHES
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

TINY = {"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 2, "num_key_value_heads": 2}


def request_with(**keys):
    return parse_request({"model": {"config": {**TINY, **keys}}, "method": {"name": "lora"}})


@pytest.mark.parametrize("name", SWITCHES)
def test_a_key_that_changes_every_familys_step_is_refused(name):
    value, _ = SWITCHES[name]
    with pytest.raises(PlanError, match="leave it out") as caught:
        estimate(request_with(**{name: value}))
    (problem,) = caught.value.problems
    assert (problem.loc, problem.input) == (f"model.config.{name}", value)


@pytest.mark.parametrize("name", SWITCHES)
def test_the_same_key_with_its_usual_value_changes_nothing(name):
    value, _ = SWITCHES[name]
    assert estimate(request_with(**{name: not value})).memory == estimate(request_with()).memory


@pytest.mark.parametrize(
    ("targets", "names", "message"),
    [
        ("all-linear", ["attn"], "attn is part of the name self_attn"),
        (["v_proj", "gate_proj"], ["e_proj"], "e_proj is part of the name gate_proj"),
        (["q_proj"], ["mlp", "mlp.up_proj"], "mlp.up_proj is inside mlp"),
        (["q_proj"], ["up_proj", "mlp"], "up_proj is inside mlp"),
    ],
)
def test_saved_modules_that_peft_would_take_otherwise_are_refused(targets, names, message):
    method = {"name": "lora", "target_modules": targets, "modules_to_save": names}
    with pytest.raises(PlanError, match=message):
        estimate(parse_request({"model": {"config": TINY}, "method": method}))


@pytest.mark.parametrize("names", [["norm"], ["e_proj"], ["mlp"], ["embed_tokens", "lm_head"]])
def test_others_are_answered_though_a_name_is_the_end_of_several(names):
    method = {"name": "lora", "target_modules": ["q_proj"], "modules_to_save": names}
    assert estimate(parse_request({"model": {"config": TINY}, "method": method})).parameters.added > 0
