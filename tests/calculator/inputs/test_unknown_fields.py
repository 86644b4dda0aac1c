"""Messages for unknown fields."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request


@pytest.mark.parametrize(
    ("place", "key", "meant"),
    [
        ("training", "optim", "training.optimizer"),
        ("training", "per_device_train_batch_size", "training.micro_batch_size"),
        ("training", "micro_batchsize", "micro_batch_size"),
        ("method", "lora_r", "method.r"),
        ("method", "use_dorra", "use_dora"),
        ("device", "num_gpus", "device.count"),
    ],
)
def test_an_unknown_field_names_the_field_that_was_meant(place, key, meant):
    body = {"model": "gpt2", "method": {"name": "lora"}, "training": {}, "device": {}}
    body[place][key] = 1
    with pytest.raises(PlanError, match=rf"{place}.{key}: unknown field; did you mean {meant}\? Known fields are "):
        parse_request(body)


def test_an_unknown_field_that_is_like_no_other_lists_the_known_fields():
    with pytest.raises(PlanError, match=r"training\.banana: unknown field; known fields are trainer, "):
        parse_request({"model": "gpt2", "method": {"name": "lora"}, "training": {"banana": 1}})
