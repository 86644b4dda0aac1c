"""Several cards: DDP and FSDP are answered everywhere but in inference and textbook accounting."""

import json
import re

import pytest

from calculator.estimation.several_gpus import ONE_GPU, TWO_GPUS, not_modeled

LORA = {"model": "gpt2", "method": {"name": "lora"}}

#: The request of each endpoint that answers DDP and FSDP, without the device.
REQUESTS = {
    "estimate": LORA,
    "limits": {**LORA, "solve_for": "r"},
    "plan": {"model": "gpt2"},
    "compare": {"model": "gpt2"},
    "export": {**LORA, "format": "peft"},
}

#: The request of each endpoint that answers one GPU only.
OF_ONE_GPU = {"inference": LORA, "estimate": {**LORA, "accounting": "textbook"}}


def device(count=1, sharding="none"):
    return {"gpu": "rtx-4090", "count": count, "sharding": sharding}


def errors(answer):
    assert answer.status_code == 422
    return {error["loc"]: error["msg"] for error in answer.json()["errors"]}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize(
    ("devices", "refused", "way_out"),
    [
        (device(2), "device.count", "or fsdp, or device.count 1 and device.sharding none"),
        (device(1, "fsdp"), "device.count", TWO_GPUS),
        (device(1, "ddp"), "device.count", TWO_GPUS),
    ],
    ids=str,
)
def test_every_endpoint_refuses_what_is_not_modeled_in_the_same_words(client, name, devices, refused, way_out):
    found = errors(client.post(f"/api/v1/{name}", json={**REQUESTS[name], "device": devices}))
    assert [*found] == [refused]
    assert found.popitem()[1].endswith(way_out)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", REQUESTS)
def test_a_sharding_is_answered_by_every_endpoint_that_trains(client, name, sharding):
    assert client.post(f"/api/v1/{name}", json={**REQUESTS[name], "device": device(2, sharding)}).status_code == 200


@pytest.mark.parametrize("name", OF_ONE_GPU)
def test_endpoints_for_one_gpu_refuse_ddp_with_a_solution(client, name):
    found = errors(client.post(f"/api/v1/{name}", json={**OF_ONE_GPU[name], "device": device(2, "ddp")}))
    assert "device.count 1" in found["device.count"]
    assert "sharding none" in found["device.count"]
    assert client.post(f"/api/v1/{name}", json={**OF_ONE_GPU[name], "device": device()}).status_code == 200


def test_a_sweep_answers_ddp_and_refuses_the_other_points(client):
    grid = {"device.count": [1, 2], "device.sharding": ["none", "ddp"]}
    lines = client.post("/api/v1/sweep", json={"request": {**LORA, "device": device()}, "grid": grid}).text.splitlines()
    one, alone, unsharded, two = map(json.loads, lines)
    assert [problem["msg"] for problem in alone["problems"]] == [f"ddp {TWO_GPUS}"]
    assert unsharded["problems"][0]["msg"].endswith(not_modeled())
    assert two["memory"]["peak_allocated_bytes"] > one["memory"]["peak_allocated_bytes"]


def _includes(shown, given):
    """Whether an object shows every given value."""
    if not isinstance(given, dict):
        return shown == given
    return all(_includes(shown[key], value) for key, value in given.items())


@pytest.mark.parametrize(
    ("settings", "sharding"),
    [
        ({"ddp": {"bucket_cap_mb": 10}}, "fsdp"),
        ({"fsdp_config": {"cpu_offload": True}}, "ddp"),
        ({"deepspeed": {"zero_optimization": {"reduce_bucket_size": 7}}}, "none"),
    ],
    ids=str,
)
def test_settings_of_another_sharding_are_refused_with_their_value_and_a_solution(client, settings, sharding):
    body = {**LORA, "training": settings, "device": device(1 if sharding == "none" else 2, sharding)}
    answer = client.post("/api/v1/estimate", json=body)
    (error,) = answer.json()["errors"]
    (name,) = settings
    assert error["loc"] == f"training.{name}"
    assert f"device.sharding is {sharding}: set that to" in error["msg"]
    assert "omit this" in error["msg"]
    assert _includes(error["input"], settings[name])


def test_a_plan_under_zero_is_of_bfloat16_weights_with_float32_masters(client):
    answer = client.post("/api/v1/plan", json={"model": "gpt2", "device": device(2, "zero2")}).json()
    (plan,) = answer["plans"]
    full = next(
        configuration
        for configuration in plan["configurations"]
        if configuration["request"]["method"]["name"] == "full"
    )
    assert full["request"]["training"]["autocast"] == "bfloat16"
    assert not any(reason["rule"]["name"] == "rounded_updates" for reason in full["reasons"])
    assert client.post("/api/v1/estimate", json=full["request"]).status_code == 200


def test_one_of_several_devices_is_refused_at_its_place(client):
    body = {"model": "gpt2", "devices": [device(), device(4)]}
    assert [*errors(client.post("/api/v1/plan", json=body))] == ["devices.1.count"]


def test_the_page_uses_labels_and_reads_out_each_problem_once(client):
    page = client.get("/?count=2&sharding=none").text
    assert "set “Sharding” ddp, zero1, zero2, zero3 or fsdp, or “Number of GPUs” 1 and “Sharding” none" in page
    (spoken,) = re.findall(r'data-live="status">(.*?)</p>', page)
    assert spoken.count("without sharding") == 1


def test_the_page_of_a_run_on_several_gpus_states_what_each_sends(client):
    assert "The figures are for each of 4 GPUs. In a step, each GPU sends" in client.get("/?count=4&sharding=ddp").text
    page = client.get("/?count=4&sharding=fsdp").text
    assert "Each stream has blocks of its own" in page
    assert re.search(r"each GPU sends [^<]* in all_gather \(3 / 4 × [\d,]+ bytes\)", page)
    assert re.search(r" and [^<]* in reduce_scatter \(3 / 4 × [\d,]+ bytes\)", page)


def test_nodes_change_communication_and_host_memory_only(client):
    training = {"autocast": "bfloat16", "fsdp_config": {"cpu_offload": True}}
    run = {**LORA, "training": training, "reserved": "rule"}
    one, two = (
        client.post("/api/v1/estimate", json={**run, "device": {**device(8, "fsdp"), "nodes": nodes}}).json()
        for nodes in (1, 2)
    )
    assert {collective["node_sent_bytes"] for collective in one["communication"]} == {0}
    assert all(collective["node_sent_bytes"] == collective["sent_bytes"] for collective in two["communication"])
    host = one["memory"]["host_bytes"]
    assert (one["memory"]["node_host_bytes"], two["memory"]["node_host_bytes"]) == (8 * host, 4 * host)
    assert one["memory"]["phases"] == two["memory"]["phases"]


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("estimate", {"count": 6, "sharding": "ddp", "nodes": 4}),
        ("inference", {"nodes": 2}),
        ("limits", {"count": 4, "sharding": "fsdp", "nodes": 2, "gpu": "rtx-4090"}),
    ],
)
def test_nodes_that_do_not_divide_the_gpus_or_do_not_count_are_refused(client, name, device):
    body = {**LORA, "device": device} | ({"solve_for": "count"} if name == "limits" else {})
    assert [*errors(client.post(f"/api/v1/{name}", json=body))] == ["device.nodes"]


def test_the_page_states_what_nodes_send_and_what_the_host_keeps(client):
    page = client.get("/?model=gpt2&method=full&count=4&nodes=2&sharding=ddp&gradient_checkpointing=true").text
    assert "With the ring algorithm, each node sends" in page
    assert 'id="nodes"' in page


def test_inference_on_several_gpus_is_refused(client):
    found = errors(client.post("/api/v1/inference", json={**LORA, "device": device(2, "ddp")}))
    assert found == {"device.sharding": ONE_GPU, "device.count": ONE_GPU}


def test_the_page_of_nodes_states_the_fewest_gpus(client):
    page = client.get("/?model=meta-llama/Llama-3.1-70B&method=full&count=4&nodes=2&sharding=fsdp&gpu=a100-80gb").text
    assert "The fewest such GPUs on which it fits" in page
    assert client.get("/limits?model=gpt2&method=lora&count=4&nodes=2&sharding=fsdp&gpu=rtx-4090").status_code == 200
