"""Forms count what kernels allocate on CUDA, the API what a trace has, and a link keeps which of the two it shows."""

import json
from html import unescape

import pytest

CONFIG = {
    "model_type": "llama",
    "vocab_size": 1000,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "hidden_size": 512,
    "intermediate_size": 1024,
}
EAGER = {"attention": "eager", "micro_batch_size": 2, "sequence_length": 512}
LORA = {"method": "lora", "r": "8", "target_modules": ""}
PLAN = {"config": json.dumps(CONFIG), **LORA, "reserved": "rule", "gradient_checkpointing": "false", **EAGER}

#: The bytes of softmax's temporary: 2 sequences, 8 heads, 512 × 512 scores in float32.
TEMPORARY = 2 * 8 * 512 * 512 * 4


def peak(answer):
    return answer.json()["memory"]["peak_allocated_bytes"]


def of_api(client, kind):
    device = {"gpu": "rtx-4090"} | ({"type": kind} if kind else {})
    body = {"model": {"config": CONFIG}, "method": {"name": "lora"}, "training": EAGER, "device": device}
    return peak(client.post("/api/v1/estimate", json={**body, "reserved": "rule"}))


def test_an_address_without_the_field_has_what_cuda_allocates_and_the_api_what_a_trace_has(client):
    form = peak(client.get("/estimate.json", params=PLAN))
    assert form == of_api(client, "cuda") == of_api(client, None) + TEMPORARY
    assert peak(client.get("/estimate.json", params={**PLAN, "device_type": "meta"})) == of_api(client, "meta")
    assert of_api(client, None) == of_api(client, "meta")


def test_the_page_shows_its_device_type_and_the_same_request(client):
    page = unescape(client.get("/", params=PLAN).text)
    assert "<option selected>cuda</option>" in page
    assert '"type": "cuda"' in page
    assert f"{TEMPORARY:,} bytes here" in page
    other = unescape(client.get("/", params={**PLAN, "device_type": "meta"}).text)
    assert '"type": "cuda"' not in other
    assert f"the peak of allocated memory is {TEMPORARY:,} bytes higher" in other


@pytest.mark.parametrize("path", ["/plan", "/inference"])
def test_other_forms_have_the_field(client, path):
    assert 'name="device_type"' in client.get(path).text


def test_a_sweep_answers_both(client):
    request = {"model": {"config": CONFIG}, "method": {"name": "lora"}, "training": EAGER}
    for reserved in ("rule", "replay"):
        body = {"request": {**request, "reserved": reserved}, "grid": {"device.type": ["meta", "cuda", "meta"]}}
        rows = [json.loads(line) for line in client.post("/api/v1/sweep", json=body).text.splitlines()]
        figures = [row["memory"]["peak_allocated_bytes"] for row in rows]
        assert figures == [figures[0], figures[0] + TEMPORARY, figures[0]]
        assert [row["point"]["device.type"] for row in rows] == ["meta", "cuda", "meta"]


def test_pages_with_figures_of_the_api_link_to_the_same_figures(client):
    assert "device_type=meta" in client.get("/cards/rtx-4090").text
    assert "device_type=meta" in client.get("/lesson/lora").text


def test_an_imported_file_is_for_the_device_type_of_the_form(client):
    content = "base_model: meta-llama/Llama-3.2-1B\nadapter: lora\n"
    for given, kind in (({}, "cuda"), ({"device_type": "meta"}, "meta")):
        page = client.post("/import", data={**given, "content": content}).text
        assert f"<option selected>{kind}</option>" in page


def test_another_device_type_is_refused_with_the_choices(client):
    answer = client.post(
        "/api/v1/estimate", json={"model": "gpt2", "method": {"name": "full"}, "device": {"type": "mps"}}
    )
    (problem,) = answer.json()["errors"]
    assert (answer.status_code, problem["loc"], problem["input"]) == (422, "device.type", "mps")
    assert "meta" in problem["msg"]
    assert "cuda" in problem["msg"]
