"""Random requests of every family get an answer, or a refusal that names a field, from every endpoint."""

import random
from typing import get_args

import pytest

from calculator.families import FAMILIES_WITH_FORWARD
from calculator.inference.settings import Serving
from calculator.inputs.settings import declared
from calculator.limit_search.bounds import SolveFor
from calculator.planning.needs import Needs
from validation.random_grid.random_requests import random_request

CARDS = ("t4", "rtx-4060", "rtx-4090", "a100-sxm4-80gb", "h200")


def some(kind, chance, share):
    """Some of a kind's settings, at a choice, a limit or a value between."""
    return {declaration.name: value(declaration, chance) for declaration in declared(kind) if chance.random() < share}


def value(declaration, chance):
    if declaration.choices:
        return chance.choice(declaration.choices)
    if isinstance(declaration.default, bool):
        return chance.random() < 0.5
    low, high = declaration.setting.minimum, declaration.setting.maximum
    if low is None or high is None:
        return declaration.default
    return chance.choice(
        [type(declaration.default or 0)(low), type(declaration.default or 0)(high), declaration.default]
    )


def estimate(body, chance):
    return {**body, "reserved": chance.choice(["rule", "rule", "replay"])}


def limits(body, chance):
    return {**body, "solve_for": chance.choice(get_args(SolveFor))}


def compare(body, chance):
    return estimate({name: body[name] for name in ("model", "training", "device")}, chance)


def export(body, chance):
    return {**body, "format": chance.choice(["peft", "axolotl", "llama-factory", "torchtune"])}


def inference(body, chance):
    """By replay, answers at the limits of the settings take seconds each."""
    given = {name: body[name] for name in ("model", "method", "device")}
    return {**given, "serving": some(Serving, chance, 0.3), "reserved": chance.choice(["rule"] * 9 + ["replay"])}


def plan(body, chance):
    needs = some(Needs, chance, 0.3)
    return {"model": body["model"], "device": body["device"], "needs": needs, "reserved": "rule"}


@pytest.mark.parametrize("make", [estimate, limits, compare, export, inference, plan], ids=lambda make: make.__name__)
def test_a_random_request_is_answered_or_refused_by_its_fields(client, make):
    chance, answered = random.Random(make.__name__), 0
    for number in range(15 if make in (plan, compare) else 30):
        body = random_request(2611, number, FAMILIES_WITH_FORWARD) | {"device": {"gpu": chance.choice(CARDS)}}
        sent = make(body, chance)
        response = client.post(f"/api/v1/{make.__name__}", json=sent)
        assert response.status_code in (200, 422), sent
        if response.status_code == 422:
            assert all(error["loc"] and error["msg"] for error in response.json()["errors"]), sent
        answered += response.status_code == 200
    assert answered > 3
