import json

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request
from calculator.families import FAMILIES_WITH_FORWARD, model_from_config
from calculator.methods import METHODS
from validation.comparison.compare import estimate
from validation.random_grid.random_requests import random_request
from validation.random_grid.sharded_requests import random_sharded_request
from validation.random_grid.sharded_trainer_requests import random_sharded_trainer_request
from validation.random_grid.trainer_requests import random_trainer_request
from validation.reference.trainers.recipe import TRAINERS, parse_recipe

FAMILIES = FAMILIES_WITH_FORWARD


@pytest.fixture(scope="module")
def drawn():
    return [random_request(7, number, FAMILIES) for number in range(400)]


def test_the_same_seed_gives_the_same_requests(drawn):
    assert [random_request(7, number, FAMILIES) for number in range(400)] == drawn


def test_another_seed_gives_other_requests(drawn):
    assert [random_request(8, number, FAMILIES) for number in range(20)] != drawn[:20]


def test_every_family_and_method_is_drawn(drawn):
    more = [*drawn, *(random_request(7, number, FAMILIES) for number in range(400, 1600))]
    assert {body["model"]["config"]["model_type"] for body in more} == set(FAMILIES)
    assert {body["method"]["name"] for body in more} == set(METHODS)


def test_another_family_leaves_most_requests_unchanged(drawn):
    with_it, without = FAMILIES, [family for family in FAMILIES if family != "llama"]
    others = [body for body in drawn if body["model"]["config"]["model_type"] != "llama"]
    drawn_without = [random_request(7, number, without) for number in range(400)]
    assert len(others) < len(drawn)
    assert all(body in drawn_without for body in others)
    assert with_it != without


def test_requests_and_their_configs_are_valid(drawn):
    for body in drawn:
        parse_request(body)
        model_from_config(body["model"]["config"])


def test_requests_are_json(drawn):
    assert json.loads(json.dumps(drawn)) == drawn


def test_most_requests_are_answered(drawn):
    answered = 0
    for body in drawn:
        try:
            estimate(parse_request(body))
        except PlanError:
            continue
        answered += 1
    assert answered > 0.7 * len(drawn)


@pytest.mark.parametrize("family", FAMILIES)
def test_requests_of_one_family_can_be_drawn(family):
    assert random_request(1, 1, [family])["model"]["config"]["model_type"] == family


@pytest.mark.parametrize("sharding", ["ddp", "fsdp", "zero1", "zero2", "zero3"])
def test_requests_of_a_sharding_are_the_same_each_time_and_valid(sharding):
    bodies = [random_sharded_request(3, number, sharding=sharding) for number in range(20)]
    assert bodies == [random_sharded_request(3, number, sharding=sharding) for number in range(20)]
    assert {body["device"]["sharding"] for body in bodies} == {sharding}
    assert {parse_request(body).device.count for body in bodies} > {2, 4}


def test_requests_of_trainers_are_the_same_each_time_and_valid():
    bodies = [random_trainer_request(3, number, TRAINERS) for number in range(150)]
    assert bodies == [random_trainer_request(3, number, TRAINERS) for number in range(150)]
    assert {parse_recipe(body).trainer for body in bodies} == set(TRAINERS)
    assert {name for body in bodies for name in body["training"]} > {
        *("use_liger_kernel", "packing", "padding_free", "completion_tokens", "precompute_ref_log_probs"),
        *("loss_type", "beta", "use_vllm", "max_completion_length", "gradient_checkpointing_kwargs"),
    }


@pytest.mark.parametrize("trainer", TRAINERS)
def test_requests_of_one_trainer_can_be_drawn_and_many_are_answered(trainer):
    answered = 0
    for number in range(30):
        body = random_trainer_request(5, number, [trainer])
        assert body["training"]["trainer"] == trainer
        try:
            estimate(parse_request(body))
        except PlanError:
            continue
        answered += 1
    assert answered > 10


def test_requests_of_a_trainer_on_several_gpus_have_both():
    body = random_sharded_trainer_request(3, 1, ["trl-sft"], ["ddp"], ["llama"])
    assert body["training"]["trainer"] == "trl-sft"
    assert body["device"]["sharding"] == "ddp"
    assert body["model"]["config"]["model_type"] == "llama"


def test_copies_are_cast_with_the_trainers_that_cast_them_alone():
    drawn = [random_trainer_request(7, number, TRAINERS, method_name="lora") for number in range(200)]
    casts = {body["training"]["trainer"] for body in drawn if "unfrozen_dtype" in body["method"]}
    assert casts == {"transformers"}
