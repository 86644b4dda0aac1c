"""Several cards are refused with one message everywhere, and the alternative that it names is answered."""

import json
import re

import pytest

from calculator.estimate.compatibility import ONE_CARD

LORA = {"model": "gpt2", "method": {"name": "lora"}}

#: The request of each endpoint, without the device.
REQUESTS = {
    "estimate": LORA,
    "limits": {**LORA, "solve_for": "r"},
    "export": {**LORA, "format": "peft"},
    "inference": LORA,
    "plan": {"model": "gpt2"},
    "compare": {"model": "gpt2"},
}


def device(count=1, sharding="none"):
    return {"gpu": "rtx-4090", "count": count, "sharding": sharding}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize(
    ("devices", "refused"),
    [
        (device(2), ["device.count"]),
        (device(2, "ddp"), ["device.count", "device.sharding"]),
        (device(2, "zero3"), ["device.count", "device.sharding"]),
        (device(1, "fsdp"), ["device.sharding"]),
    ],
    ids=str,
)
def test_every_endpoint_refuses_several_cards_in_the_same_words(client, name, devices, refused):
    answer = client.post(f"/api/v1/{name}", json={**REQUESTS[name], "device": devices})
    assert answer.status_code == 422
    assert {error["loc"]: error["msg"] for error in answer.json()["errors"]} == dict.fromkeys(refused, ONE_CARD)


def test_a_sweep_shows_each_such_point_the_same(client):
    grid = {"device.count": [1, 2], "device.sharding": ["none", "ddp"]}
    lines = client.post("/api/v1/sweep", json={"request": {**LORA, "device": device()}, "grid": grid}).text.splitlines()
    messages = [{each["msg"] for each in json.loads(line)["problems"]} for line in lines]
    assert messages == [set(), {ONE_CARD}, {ONE_CARD}, {ONE_CARD}]


@pytest.mark.parametrize("name", REQUESTS)
def test_what_to_do_that_the_refusal_names_is_answered(client, name):
    assert ONE_CARD.endswith("device.count 1 and device.sharding none")
    assert client.post(f"/api/v1/{name}", json={**REQUESTS[name], "device": device(1, "none")}).status_code == 200


def test_one_of_several_devices_is_refused_at_its_place(client):
    body = {"model": "gpt2", "devices": [device(), device(4, "fsdp")]}
    errors = client.post("/api/v1/plan", json=body).json()["errors"]
    assert [error["loc"] for error in errors] == ["devices.1.sharding", "devices.1.count"]


def test_the_page_uses_labels_and_reads_out_each_problem_once(client):
    page = client.get("/?count=2&sharding=ddp").text
    assert "set “Number of GPUs” 1 and “Sharding” none" in page
    (spoken,) = re.findall(r'data-live="status">(.*?)</p>', page)
    assert spoken.count("several cards") == 1
