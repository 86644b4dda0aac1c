"""Requests are parsed strictly, and a problem always has the same message."""

import os
import re
import subprocess
import sys

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.limit_search.limits import limit, parse_limit

COUNT = {"model": {"parameters": 1000}, "method": {"name": "lora"}, "device": {"gpu": "rtx-4090"}}

UNKNOWN_FIELD = """
from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request
try:
    parse_request({"model": "gpt2", "method": {"name": "lora"}, "color": 1})
except PlanError as error:
    print(error)
"""


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_the_known_fields_have_one_order_in_every_process(seed):
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run(
        [sys.executable, "-c", UNKNOWN_FIELD], env=environment, capture_output=True, text=True, check=True
    )
    fields = "model, method, training, device, stack, reserved, accounting, task, num_labels, problem_type, engine"
    assert done.stdout.strip().endswith(f"known fields are {fields}")


@pytest.mark.parametrize("accounting", ["exact", "textbook"])
def test_a_bare_count_is_for_full_fine_tuning_in_any_request(accounting):
    body = {**COUNT, "accounting": accounting}
    for ask in (lambda: limit(parse_limit({**body, "solve_for": "r"})), lambda: estimate(parse_request(body))):
        with pytest.raises(PlanError) as refusal:
            ask()
        (problem,) = refusal.value.problems
        assert problem.loc == "model.parameters"
        assert "is for full fine-tuning" in problem.msg
        assert "an id or a config" in problem.msg
        assert 'needs "accounting"' not in problem.msg


@pytest.mark.parametrize(
    ("name", "hint"),
    [("axolotl", "--tool axolotl"), ("llama-factory", "--tool llama-factory")],
)
def test_a_tool_in_place_of_a_trainer_is_refused_with_what_to_do_instead(name, hint):
    body = {"model": "gpt2", "method": {"name": "lora"}, "training": {"trainer": name}}
    with pytest.raises(PlanError) as refused:
        parse_request(body)
    (problem,) = refused.value.problems
    assert problem.loc == "training.trainer"
    assert hint in problem.msg
    with pytest.raises(PlanError) as refused:
        parse_request({**body, "training": {"trainer": "nobody"}})
    assert "--tool" not in str(refused.value)


@pytest.mark.parametrize(
    ("part", "hint"),
    [
        ({"model": {"id": "openai-community/gpt2"}}, "a catalogue id is a string in place of the object"),
        ({"method": "qlora"}, '{"name": "qlora"}'),
        ({"method": "finetune"}, '{"name": "lora"}'),
        ({"device": "rtx-4090"}, '{"gpu": "rtx-4090"}'),
    ],
)
def test_a_value_of_another_shape_is_refused_with_the_shape_that_is_read(part, hint):
    with pytest.raises(PlanError, match=re.escape(hint)):
        parse_request({"model": "openai-community/gpt2", "method": {"name": "lora"}, **part})


@pytest.mark.parametrize(
    ("part", "hint"),
    [
        ({"training": {"trainer": "SFTTrainer"}}, "Use trl-sft"),
        ({"training": {"trainer": "dpo"}}, "Use trl-dpo"),
        ({"training": {"trainer": "Trainer"}}, "Use transformers"),
        ({"training": {"optimizer": "adamw_8bits"}}, "Use adamw_8bit"),
        ({"training": {"attention": "flash"}}, "Use flash_attention_2"),
        ({"training": {"dtype": "bf16"}}, "Use bfloat16"),
        ({"task": "CAUSAL_LM"}, "Use causal_lm"),
    ],
)
def test_a_choice_that_is_spelled_differently_is_named(part, hint):
    with pytest.raises(PlanError, match=rf"\. {hint}$"):
        parse_request({"model": "gpt2", "method": {"name": "lora"}, **part})


@pytest.mark.parametrize("trainer", ["trl", "nobody", ""])
def test_a_choice_that_resembles_none_or_several_gets_no_hint(trainer):
    with pytest.raises(PlanError) as caught:
        parse_request({"model": "gpt2", "method": {"name": "lora"}, "training": {"trainer": trainer}})
    assert "Use " not in caught.value.problems[0].msg
