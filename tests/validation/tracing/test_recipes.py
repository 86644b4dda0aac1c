"""A recipe reads a trainer's settings from the request, which refuses wrong ones."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request
from validation.reference.trainers.recipe import parse_recipe

BODY = {"model": "gpt2", "method": {"name": "lora"}}


def test_the_settings_of_a_modeled_trainer_are_those_of_the_request():
    options = {"use_reentrant": True}
    training = {"trainer": "trl-sft", "packing": True, "gradient_checkpointing_kwargs": options, "completion_tokens": 7}
    recipe = parse_recipe({**BODY, "training": training, "stack": {"trl": "1.9"}})
    assert (recipe.trainer, recipe.packing, recipe.completion_tokens, recipe.trl) == ("trl-sft", True, 7, "1.9")
    assert recipe.gradient_checkpointing_kwargs == options
    assert recipe.request == parse_request({**BODY, "training": {}})


def test_the_request_of_a_trainer_that_is_only_traced_has_none_of_its_settings():
    recipe = parse_recipe({**BODY, "training": {"trainer": "trl-grpo", "num_generations": 4, "loss_type": "dapo"}})
    assert (recipe.num_generations, recipe.loss_type) == (4, "dapo")
    assert recipe.request == parse_request(BODY)


def test_a_wrong_setting_of_a_modeled_trainer_is_refused_at_its_place():
    with pytest.raises(PlanError) as refused:
        parse_recipe({**BODY, "training": {"trainer": "trl-sft", "packing": "yes"}})
    assert [problem.loc for problem in refused.value.problems] == ["training.packing"]


def test_a_release_that_estimates_do_not_know_is_traced_and_the_reference_step_has_no_recipe():
    assert parse_recipe({**BODY, "training": {"trainer": "trl-dpo"}, "stack": {"trl": "1.17"}}).trl == "1.17"
    assert parse_recipe(BODY) is None
