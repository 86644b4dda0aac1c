"""`POST /api/v1/plan` returns complete configurations that the other endpoints accept."""

import pytest

from app.api.plan import EXAMPLES

TASKS = {
    "model": "meta-llama/Llama-3.1-70B",
    "device": {"gpu": "a100-sxm4-80gb"},
    "needs": {"tasks": 20, "switch_per_request": True},
}


def plan(client, body):
    return client.post("/api/v1/plan", json=body)


@pytest.fixture(scope="module")
def tasks(client):
    return plan(client, TASKS).json()["plans"][0]


@pytest.fixture(scope="module")
def nothing(client):
    return plan(client, EXAMPLES.requests["nothing"][1]).json()["plans"][0]


def test_every_request_is_the_body_of_its_estimate(client, tasks):
    for configuration in (tasks["configurations"][0], tasks["configurations"][-1]):
        answer = client.post("/api/v1/estimate", json=configuration["request"]).json()
        assert answer["memory"] == configuration["estimate"]["memory"]
        fit = configuration["estimate"]["fit"]
        assert fit == {name: answer["fit"][name] for name in fit}
        assert answer["fit"]["verdict"] == "fits"
        assert 0 < fit["minimum_bytes"] <= fit["usable_bytes"]


def test_a_configuration_states_what_it_is_what_it_costs_and_why(tasks):
    best = tasks["configurations"][0]
    assert best["label"].startswith("QLoRA, r 16 on every linear layer")
    assert best["effective_batch_size"] == 16
    assert best["cost"]["relative"] == pytest.approx(sum(term["relative"] for term in best["cost"]["terms"]))
    assert {reason["stance"] for reason in best["reasons"]} == {"for", "against"}
    assert all(reason["rule"]["source"] for reason in best["reasons"])


def test_a_method_that_is_not_proposed_has_a_reason_and_its_rule(tasks):
    rules = {out["method"]: out["rule"]["name"] for out in tasks["ruled_out"]}
    assert rules["full"] == "copy_per_task"
    assert rules["adapter"] == "fits"


def test_a_plan_in_which_nothing_fits_has_the_nearest_miss_and_changes_that_fit(client, nothing):
    assert nothing["configurations"] == []
    miss = nothing["nearest_miss"]
    assert miss["short_bytes"] == -miss["estimate"]["fit"]["headroom_bytes"] > 0
    there = client.post("/api/v1/estimate", json=miss["smallest_gpu_request"]).json()["fit"]
    assert there["gpu"] == miss["smallest_gpu"]
    assert there["verdict"] == "fits"
    assert there["headroom_bytes"] == miss["smallest_gpu_headroom_bytes"]
    (change,) = nothing["changes"]
    body = {**EXAMPLES.requests["nothing"][1], **change["sets"]}
    assert plan(client, body).json()["plans"][0]["configurations"]


def test_the_smallest_gpu_has_the_request_of_its_headroom(client):
    """A GPU with bfloat16 is planned in it, whatever dtype the given device computes in."""
    body = {"model": "bigscience/bloom-3b", "device": {"gpu": "rtx-2060"}, "needs": {"sequence_length": 1024}}
    miss = plan(client, body).json()["plans"][0]["nearest_miss"]
    dtypes = [miss[name]["training"]["dtype"] for name in ("request", "smallest_gpu_request")]
    assert dtypes == ["float16", "bfloat16"]
    there = client.post("/api/v1/estimate", json=miss["smallest_gpu_request"]).json()["fit"]
    assert (there["gpu"], there["headroom_bytes"]) == (miss["smallest_gpu"], miss["smallest_gpu_headroom_bytes"])


def test_a_config_json_is_planned_too(client):
    config = client.get("/api/v1/models/meta-llama/Llama-3.2-1B").json()["config"]
    body = {"device": {"gpu": "t4"}, "needs": {"must_merge": True}, "reserved": "rule"}
    by_config = plan(client, {**body, "model": {"config": config}}).json()["plans"][0]
    by_id = plan(client, {**body, "model": "meta-llama/Llama-3.2-1B"}).json()["plans"][0]
    labels = [configuration["label"] for configuration in by_config["configurations"]]
    assert labels == [configuration["label"] for configuration in by_id["configurations"]]
    assert by_config["model"] == "llama"


def test_needs_that_contradict_each_other_are_a_problem_document(client):
    needs = {"must_merge": True, "frozen_base": True}
    response = plan(client, {"model": "gpt2", "device": {"gpu": "t4"}, "needs": needs})
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["errors"][0]["loc"] == "needs.must_merge"


def test_an_absent_device_is_reported_with_an_example(client):
    refused = plan(client, {"model": "gpt2"}).json()
    assert refused["detail"] == 'device: is required, such as {"gpu": "RTX 4090"}; or give a list of devices'
    both = plan(client, {"model": "gpt2", "models": ["gpt2"], "device": {"gpu": "RTX 4090"}}).json()
    assert both["detail"] == "model: give either model or a list of models, not both"
