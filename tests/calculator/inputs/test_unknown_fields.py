"""Messages for unknown fields."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request
from calculator.run.request import parse_run


@pytest.mark.parametrize(
    ("place", "key", "meant"),
    [
        ("training", "optim", "training.optimizer"),
        ("training", "per_device_train_batch_size", "training.micro_batch_size"),
        ("training", "micro_batchsize", "micro_batch_size"),
        ("method", "lora_r", "method.r"),
        ("method", "use_dorra", "use_dora"),
        ("device", "num_gpus", "device.count"),
        ("training", "gpu", "device.gpu"),
    ],
)
def test_an_unknown_field_names_the_field_that_was_meant(place, key, meant):
    body = {"model": "gpt2", "method": {"name": "lora"}, "training": {}, "device": {}}
    body[place][key] = 1
    with pytest.raises(PlanError, match=rf"{place}.{key}: unknown field; did you mean {meant}\? Known fields are "):
        parse_request(body)


def test_a_field_outside_its_object_is_named_with_it():
    with pytest.raises(
        PlanError, match=r"trainer: unknown field; did you mean training.trainer\? Known fields are model"
    ):
        parse_request({"model": "gpt2", "method": {"name": "lora"}, "trainer": "trl-sft"})


@pytest.mark.parametrize("key", ["epochs", "num_train_epochs"])
def test_a_setting_of_a_whole_run_names_the_answer_that_takes_it(key):
    message = (
        rf"training.{key}: unknown field; the answer about a whole run \(/run\) takes it, as run.num_train_epochs\."
    )
    with pytest.raises(PlanError, match=message):
        parse_request({"model": "gpt2", "method": {"name": "lora"}, "training": {key: 3}})


def test_a_whole_runs_own_fields_are_among_the_known_ones():
    body = {"model": "gpt2", "method": {"name": "lora"}}
    with pytest.raises(PlanError, match=r"runs: unknown field; did you mean run\? Known fields are .*, run$"):
        parse_run({**body, "runs": {}})
    with pytest.raises(PlanError, match=r"run.epochs: unknown field; did you mean run.num_train_epochs\?"):
        parse_run({**body, "run": {"epochs": 3}})


@pytest.mark.parametrize(
    ("place", "key", "value", "hint"),
    [("training", "dtype", "bf16", "Use bfloat16"), ("device", "sharding", "fsdp2", "Use fsdp, which is FSDP2")],
)
def test_a_usual_name_of_a_value_is_answered_with_the_one_to_use(place, key, value, hint):
    with pytest.raises(PlanError, match=hint):
        parse_request({"model": "gpt2", "method": {"name": "lora"}, place: {key: value}})


def test_an_unknown_field_that_is_like_no_other_lists_the_known_fields():
    with pytest.raises(PlanError, match=r"training\.banana: unknown field; known fields are trainer, "):
        parse_request({"model": "gpt2", "method": {"name": "lora"}, "training": {"banana": 1}})
