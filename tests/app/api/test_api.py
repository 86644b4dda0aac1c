"""The JSON API keeps its contract."""

import json

import pytest

from calculator.devices import gpus
from calculator.methods import METHODS, USUAL_METHODS

COMPONENTS = {
    "base_weights",
    "quantization_constants",
    "adapter_weights",
    "gradients",
    "optimizer_states",
    "activations",
    "logits_and_loss",
    "workspace",
}


def estimate(client, body):
    return client.post("/api/v1/estimate", json=body)


def test_an_estimate_answers_with_every_part_of_the_contract(client, plan):
    answer = estimate(client, plan).json()
    contract = {"model", "parameters", "memory", "fit", "assumptions", "warnings"}
    found_how = {"accounting", "reserved", "accuracy", "engine", "grade", "trace"}
    assert set(answer) == contract | found_how | {"method", "communication", "saved_bytes"}
    assert answer["method"]["r"] == plan["method"]["r"]
    assert answer["model"]["id"] == "meta-llama/Llama-3.1-8B"
    assert answer["model"]["model_type"] == "llama"
    assert answer["model"]["parameters"] == 8_030_261_248
    counts = answer["parameters"]
    assert counts["total"] == counts["base"] + counts["added"]
    assert counts["trainable"] == counts["added"] == 41_943_040
    assert answer["saved_bytes"] == 4 * counts["trainable"]
    assert counts["trainable_fraction"] == counts["trainable"] / counts["total"]
    fit = answer["fit"]
    assert fit["gpu"] == "rtx-4090"
    assert fit["verdict"] == "fits"
    assert fit["headroom_bytes"] == fit["usable_bytes"] - answer["memory"]["required_bytes"]
    assert answer["assumptions"]


@pytest.mark.parametrize("method", METHODS)
def test_components_and_their_rows_sum_to_the_peak(client, plan, method):
    model = {"model": "openai-community/gpt2"} if method == "bitfit" else {}
    body = {**plan, **model, "method": {"name": method}, "training": {"sequence_length": 1024} if model else {}}
    memory = estimate(client, body).json()["memory"]
    assert {component["name"] for component in memory["components"]} <= COMPONENTS
    assert sum(component["bytes"] for component in memory["components"]) == memory["peak_allocated_bytes"]
    for component in memory["components"]:
        assert sum(row["bytes"] for row in component["rows"]) == component["bytes"]
        assert all(row["source"] for row in component["rows"])
    phases = {phase["name"]: phase["peak_bytes"] for phase in memory["phases"]}
    assert list(phases) == ["forward", "backward", "optimizer_step"]
    assert phases[memory["peak_phase"]] == max(phases.values()) == memory["peak_allocated_bytes"]
    least = memory["peak_allocated_bytes"] + memory["library_workspace_bytes"]
    assert least <= memory["peak_reserved_bytes"] < memory["required_bytes"]


def test_every_size_is_a_whole_number_of_bytes(client, plan):
    def sizes(value, name=""):
        if isinstance(value, dict):
            return [size for key, part in value.items() for size in sizes(part, key)]
        if isinstance(value, list):
            return [size for part in value for size in sizes(part, name)]
        return [value] if name == "bytes" or name.endswith("_bytes") else []

    answer = estimate(client, plan).json()
    # Nothing is offloaded.
    assert [answer["memory"].pop(name) for name in ("host_bytes", "node_host_bytes")] == [None, None]
    found = sizes(answer)
    assert len(found) > 20
    assert {type(size) for size in found} == {int}


def test_without_a_device_there_is_no_verdict(client, plan):
    del plan["device"]
    assert estimate(client, plan).json()["fit"] is None


def test_any_memory_size_gets_a_verdict(client, plan):
    answer = estimate(client, {**plan, "device": {"memory_bytes": 8 << 30}}).json()
    assert answer["fit"]["gpu"] is None
    assert answer["fit"]["verdict"] == "does_not_fit"
    assert answer["fit"]["headroom_bytes"] < 0
    assert answer["fit"]["gpus_needed"] >= 2


def test_llama_70b_qlora_does_not_fit_24_gb(client, plan):
    answer = estimate(client, {**plan, "model": "meta-llama/Llama-3.1-70B", "reserved": "rule"}).json()
    assert answer["fit"]["verdict"] == "does_not_fit"
    assert answer["memory"]["required_bytes"] > 40 << 30


def test_full_fine_tuning_of_70_billion_parameters_needs_840_gb_by_the_textbook(client):
    body = {"model": {"parameters": 70_000_000_000}, "method": {"name": "full"}, "accounting": "textbook"}
    assert estimate(client, body).json()["memory"]["peak_allocated_bytes"] == 840_000_000_000


def test_a_config_json_is_a_model_too(client, plan):
    config = client.get("/api/v1/models/meta-llama/Llama-3.1-8B").json()["config"]
    by_config = estimate(client, {**plan, "model": {"config": config}}).json()
    by_id = estimate(client, plan).json()
    assert by_config["model"]["id"] is None
    assert by_config["memory"] == by_id["memory"]
    assert by_config["parameters"] == by_id["parameters"]


def test_a_comparison_has_a_row_for_every_usual_method(client, plan):
    del plan["method"]
    rows = client.post("/api/v1/compare", json=plan).json()["rows"]
    assert tuple(row["method"]["name"] for row in rows) == USUAL_METHODS
    for row in rows:
        assert row["inference_overhead"]
        assert row["best_for"]
        assert row["mergeable"] in (True, False, None)
        assert (row["estimate"] is None) == bool(row["problems"])


def test_a_comparison_row_equals_the_estimate_of_its_method(client, plan):
    methods = [plan.pop("method"), {"name": "lora", "r": 64}]
    rows = client.post("/api/v1/compare", json={**plan, "methods": methods}).json()["rows"]
    for method, row in zip(methods, rows, strict=True):
        single = estimate(client, {**plan, "method": method}).json()
        fit = row["estimate"].pop("fit")
        assert fit == {name: single["fit"][name] for name in fit}
        assert row["estimate"] == {name: value for name, value in single.items() if name != "fit"}


def test_a_method_that_peft_refuses_has_a_row_with_the_reason_and_the_nearest_plan(client, plan):
    del plan["method"]
    rows = client.post("/api/v1/compare", json=plan).json()["rows"]
    prefix = next(row for row in rows if row["method"]["name"] == "prefix")
    assert prefix["estimate"] is None
    assert prefix["problems"][0]["loc"] == "training.gradient_checkpointing"
    assert prefix["alternative"]["changes"] == {"training.gradient_checkpointing": False}
    assert prefix["alternative"]["estimate"]["memory"]["required_bytes"] > 0


def test_the_models_are_listed_and_each_is_found_by_id_alias_and_url(client):
    listed = client.get("/api/v1/models").json()["models"]
    assert len(listed) > 100
    gpt2 = next(model for model in listed if "gpt2" in model["aliases"])
    for name in (gpt2["id"], "gpt2", f"https://huggingface.co/{gpt2['id']}"):
        found = client.get(f"/api/v1/models/{name}").json()
        assert found["id"] == gpt2["id"]
        assert found["parameters"] == gpt2["parameters"] == 124_439_808
        assert found["config"]["model_type"] == "gpt2"


def test_the_gpus_are_listed_with_sources(client):
    listed = client.get("/api/v1/gpus").json()["gpus"]
    assert len(listed) == len(gpus())
    for card in listed:
        assert card["usable_bytes"] > 0
        assert card["origin"]
        assert (card["memory_torch_mib"] is None) == (card["memory_torch_source"] is None)


def test_the_methods_are_listed_with_their_inputs(client):
    listed = {method["name"]: method for method in client.get("/api/v1/methods").json()["methods"]}
    assert list(listed) == list(METHODS)
    r = next(setting for setting in listed["lora"]["settings"] if setting["name"] == "r")
    assert (r["default"], r["minimum"]) == (8, 1)
    quant = next(setting for setting in listed["qlora"]["settings"] if setting["name"] == "quant_type")
    assert quant["choices"] == ["nf4", "fp4"]


def test_health_shows_the_version(client):
    answer = client.get("/healthz").json()
    assert answer["status"] == "ok"
    assert answer["version"]


@pytest.mark.parametrize("path", ["/", "/docs", "/healthz", "/api/v1/models", "/static/style.css"])
def test_head_answers_like_get_without_the_body(client, path):
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


def test_the_order_of_keys_does_not_matter(client, plan):
    turned = json.loads(json.dumps(dict(reversed(plan.items()))))
    assert estimate(client, turned).json() == estimate(client, plan).json()
