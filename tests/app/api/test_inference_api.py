"""`POST /api/v1/inference` and `python -m app inference`."""

import json

import pytest

from app.__main__ import main
from app.forms.fields import INFERENCE_FIELDS as FIELDS
from calculator.methods import METHODS

BODY = {
    "model": "meta-llama/Llama-3.1-8B",
    "method": {"name": "lora", "r": 16, "target_modules": ["q_proj", "v_proj"]},
    "serving": {"tasks": 20, "batch_size": 4},
    "device": {"gpu": "rtx-4090"},
    "reserved": "rule",
}
OPTIONS = (
    *("--model", "meta-llama/Llama-3.1-8B", "--method", "lora", "--r", "16", "--target_modules", "q_proj,v_proj"),
    *("--tasks", "20", "--serving.batch_size", "4", "--gpu", "rtx-4090", "--reserved", "rule"),
)


def answered(client, body):
    return client.post("/api/v1/inference", json=body)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.facts.refuses_unmerged])
def test_a_method_that_is_only_served_merged_has_a_warning(client, name):
    answer = client.post("/api/v1/inference", json={**BODY, "method": {"name": name}})
    assert answer.status_code == 422
    assert [error["loc"] for error in answer.json()["errors"]] == ["serving.merged"]


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.facts.refuses_unmerged])
def test_every_method_is_answered_with_components_that_sum_to_the_peak(client, name):
    model = {"model": "openai-community/gpt2"} if name == "bitfit" else {}
    context = {"serving": {**BODY["serving"], "context_length": 512}} if model else {}
    answer = answered(client, {**BODY, **model, **context, "method": {"name": name}}).json()
    memory = answer["memory"]
    assert sum(part["bytes"] for part in memory["components"]) == memory["peak_allocated_bytes"]
    assert all(part["formula"] and part["substituted"] and part["source"] for part in memory["components"])
    assert max(pass_["peak_bytes"] for pass_ in memory["passes"]) == memory["peak_allocated_bytes"]
    assert answer["fit"]["usable_bytes"] - memory["required_bytes"] == answer["fit"]["headroom_bytes"]
    assert answer["method"]["name"] == name
    assert answer["serving"]["tasks"] == 20


def test_without_a_method_the_base_model_is_served(client):
    answer = answered(client, {"model": "openai-community/gpt2"}).json()
    assert (answer["method"]["name"], answer["fit"], answer["merge"]) == ("full", None, None)
    assert [cost["added"] for cost in answer["costs"]] == [0, 0, 0, 0]


def test_a_merge_is_described_with_its_loss(client):
    method = {"name": "qlora", "target_modules": "all-linear"}
    answer = answered(client, {**BODY, "method": method, "serving": {"merged": True}}).json()
    assert answer["merge"]["rows"][0]["name"] == "weight, dequantized"
    assert answer["merge"]["loss"] in answer["warnings"]


@pytest.mark.parametrize(
    ("change", "loc"),
    [
        ({"serving": {"batch_size": 0}}, "serving.batch_size"),
        ({"serving": {"sequence_length": 8}}, "serving.sequence_length"),
        ({"serving": {"merged": True}, "method": {"name": "adapter"}}, "serving.merged"),
        ({"model": {"parameters": 70_000_000_000}}, "model.parameters"),
        ({"model": "nobody/nothing"}, "model"),
        ({"training": {}}, "training"),
        ({"device": {"count": 2}}, "device.count"),
        ({"method": {"name": "lora", "r": 0}}, "method.r"),
    ],
)
def test_an_error_is_named_at_its_field(client, change, loc):
    response = answered(client, {**BODY, **change})
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert [error["loc"] for error in response.json()["errors"]] == [loc]


# ----------------------------------------------------------------------------------------------------------------------
# The command line


def test_every_input_has_its_option(capsys):
    with pytest.raises(SystemExit) as left:
        main(["inference", "--help"])
    assert left.value.code == 0
    output = capsys.readouterr().out
    assert [name for name, field in FIELDS.items() if f"--{name}" not in output and not field.method] == []


def test_options_are_the_request_of_the_api(client, capsys):
    assert main(["inference", *OPTIONS, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == answered(client, BODY).json()


def test_options_override_the_request_of_a_file(client, capsys, tmp_path):
    file = tmp_path / "serving.json"
    file.write_text(json.dumps(BODY))
    assert main(["inference", "--request", str(file), "--tasks", "2", "--json"]) == 0
    expected = {**BODY, "serving": {**BODY["serving"], "tasks": 2}}
    assert json.loads(capsys.readouterr().out) == answered(client, expected).json()


def test_the_text_states_the_largest_component_and_the_cost(capsys):
    assert main(["inference", *OPTIONS]) == 0
    output = capsys.readouterr().out
    for words in ("fits with", "KV cache", "last decoding step", "Operations per token", "Assumptions"):
        assert words in output


def test_the_status_states_whether_it_fits(capsys):
    assert main(["inference", *OPTIONS, "--gpu", "rtx-4060"]) == 1
    assert main(["inference", *OPTIONS, "--batch_size", "0"]) == 2
    assert "--batch_size: must be at least 1" in capsys.readouterr().err


def test_the_releases_of_a_request_are_those_of_its_answer(client):
    body = {"model": "meta-llama/Llama-3.2-1B", "reserved": "rule", "stack": {"transformers": "4.57", "torch": "2.13"}}
    first, *others = client.post("/api/v1/inference", json=body).json()["assumptions"]
    assert first.startswith("The figures are for PyTorch 2.13 on CUDA, transformers 4.57")
    assert any(line.startswith("transformers 4.57: ") for line in others)
    refused = client.post("/api/v1/inference", json={**body, "stack": {"transformers": "4.40"}}).json()
    assert {error["loc"] for error in refused["errors"]} == {"stack.transformers"}
