"""The estimate page offers exported files and imports other tools' files, without JavaScript."""

import json
import re

import pytest
import yaml

from app.forms.plan_form import LONGEST_ADDRESS
from app.interop.downloads import OF_TRAINER
from app.interop.exports import FORMATS
from calculator.methods import USUAL_METHODS

AXOLOTL = """\
base_model: gpt2
adapter: lora
lora_target_linear: true
lora_mlp_kernel: false
sequence_len: 600
bf16: false
learning_rate: 2e-4
"""


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - OF_TRAINER))
def test_every_format_is_a_link_to_the_file_that_the_api_answers(client, name):
    link = re.search(rf'href="(/export/{name}[^"]*)"', client.get("/?r=4&method=lora").text)[1]
    response = client.get(link.replace("&amp;", "&"))
    request = {
        "model": "meta-llama/Llama-3.1-8B",
        "method": {"name": "lora", "r": 4, "target_modules": "all-linear"},
        "training": {"gradient_checkpointing": True},
        "device": {"gpu": "rtx-4090", "type": "cuda"},
    }
    answer = client.post("/api/v1/export", json={**request, "format": name}).json()
    assert response.text == answer["content"]
    assert response.headers["content-disposition"] == f'attachment; filename="{answer["filename"]}"'
    assert response.headers["content-type"].startswith(answer["media_type"])


@pytest.mark.parametrize("method", [*USUAL_METHODS, "miss"])
def test_a_method_that_a_tool_lacks_is_reported_in_the_links_place(client, method):
    text = client.get(f"/?method={method}&gradient_checkpointing=false").text
    has = method in ("full", "lora", "qlora")
    assert "/export/peft?" in text
    assert ("/export/axolotl?" in text) == has
    assert ("use the format peft" in text) == (not has)


def test_a_file_of_torchtune_is_offered_only_for_its_trainer(client):
    query = "/?method=lora&target_modules=q_proj&trainer=torchtune&adapter_dtype=model&reserved=rule"
    link = re.search(r'href="(/export/torchtune[^"]*)"', client.get(query).text)[1]
    assert yaml.safe_load(client.get(link.replace("&amp;", "&")).text)["model"]["lora_attn_modules"] == ["q_proj"]
    assert "/export/torchtune" not in client.get("/?method=lora&reserved=rule").text


def test_differences_are_reported_next_to_the_link(client):
    assert "axolotl trains bfloat16 weights under autocast" in client.get("/").text


def test_a_config_that_is_too_long_for_a_link_has_buttons(client):
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 100,
        "note": "x" * LONGEST_ADDRESS,
    }
    typed = {"config": json.dumps(config), "method": "lora"}
    text = client.post("/", data=typed).text
    assert re.search(r'<button[^>]* form="plan" formmethod="post" formaction="/export/llama-factory"', text)
    response = client.post("/export/llama-factory", data={**typed, "content": "", "micro_batch_size": "1"})
    assert yaml.safe_load(response.text)["finetuning_type"] == "lora"


@pytest.mark.parametrize(
    ("address", "status", "message"),
    [
        ("/export/axolotl?method=prefix&gradient_checkpointing=false", 422, "use the format peft"),
        ("/export/peft?method=prefix", 422, "gradient checkpointing"),
        ("/export/peft?accounting=textbook", 422, "exact"),
        ("/export/peft?seq_len=5", 422, "seq_len"),
        ("/export/magic", 404, "There is nothing at this path"),
    ],
)
def test_a_file_that_cannot_be_is_a_page_that_gives_the_reason(client, address, status, message):
    response = client.get(address)
    assert response.status_code == status
    assert response.headers["content-type"].startswith("text/html")
    assert message in response.text


def test_a_file_redirects_to_the_address_of_its_plan(client):
    response = client.post("/import", data={"content": AXOLOTL}, follow_redirects=False)
    assert response.status_code == 303
    text = client.get(response.headers["location"]).text
    assert '<link rel="canonical" href="/?' in text
    assert re.search(r'id="sequence_length"[^>]*value="640"', text)
    assert re.search(r'id="method-lora"[^>]*checked', text)
    assert "openai-community/gpt2" in text


def test_the_page_lists_what_of_a_file_it_does_not_reproduce(client):
    response = client.post("/import", data={"content": AXOLOTL + "optimizer: muon\nplugins: [liger]"})
    assert response.status_code == 200
    assert 'optimizer: "muon"</code>' in response.text
    assert "liger" in response.text
    assert "No effect on memory: learning_rate" in response.text


def test_a_file_that_cannot_be_read_is_kept_with_what_is_wrong(client):
    response = client.post("/import", data={"content": "a: [</textarea><b>"})
    assert response.status_code == 422
    assert "content is not YAML: line 1" in response.text
    assert "a: [&lt;/textarea&gt;&lt;b&gt;" in response.text


def test_a_file_that_cannot_be_read_is_reported_in_the_answers_place_and_no_other_plan_is_judged(client):
    typed = {"content": "foo: [bar", "gpu": "l40s", "method": "lora", "sequence_length": "77", "r": "abc"}
    text = client.post("/import", data=typed).text
    answer = text[text.index('id="answer"') :]
    assert "<title>This file can&#39;t be planned" in text
    assert '<a href="#content">The file</a>: content is not YAML: line 1' in answer
    assert 'data-verdict="fits"' not in text
    assert re.search(r'role="status"[^>]*>This file can&#39;t be planned: content is not YAML', text)
    assert '<details class="fold" data-fold="import" open>' in text
    assert re.search(r'id="content"[^>]*aria-invalid="true"[^>]*>foo: \[bar</textarea>', text)
    assert '<option value="l40s" selected>' in text
    assert re.search(r'id="method-lora"[^>]*checked', text)
    assert re.search(r'id="sequence_length"[^>]*value="77"', text)
    assert re.search(r'id="r"[^>]*value="abc"', text)


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ({"gpu": "l40s"}, "the form keeps L40S"),
        ({"gpu": "", "memory_gib": "12"}, "the form keeps a GPU of 12.00 GiB"),
        ({"gpu": ""}, "The file names no GPU, so the GPU in the form does not change"),
    ],
)
def test_a_file_is_planned_on_the_gpu_that_was_chosen_and_the_page_states_which(client, typed, sentence):
    response = client.post("/import", data={**typed, "r": "99", "content": AXOLOTL + "plugins: [liger]"})
    assert response.status_code == 200
    assert sentence in response.text
    assert "liger" in response.text
    assert re.search(r'id="r"[^>]*value="8"', response.text)
    assert all(f"{name}={value}" in str(response.url) for name, value in typed.items())
    assert client.get(str(response.url)).text == response.text


def test_a_gpu_that_is_wrong_is_reported_next_to_the_file(client):
    response = client.post("/import", data={"count": "4", "content": AXOLOTL + "plugins: [liger]"})
    assert response.status_code == 422
    assert '<a href="#count">' in response.text
    assert "liger" in response.text


def test_a_file_too_long_for_an_address_is_answered_without_a_redirect(client):
    long = f"{AXOLOTL}plugins: [liger]\n# {'x' * LONGEST_ADDRESS}"
    response = client.post("/import", data={"gpu": "l40s", "content": long}, follow_redirects=False)
    assert response.status_code == 200
    assert "the form keeps L40S" in response.text
    assert "liger" in response.text


def test_a_file_that_cannot_be_read_has_an_address_with_all_that_is_typed(client):
    typed = {"content": "foo: [bar", "gpu": "l40s", "r": "abc"}
    response = client.post("/import", data=typed, follow_redirects=False)
    assert response.headers["location"] == "/import?gpu=l40s&r=abc&content=foo%3A+%5Bbar"
    assert client.get(response.headers["location"]).status_code == 422


def test_the_box_for_a_file_is_no_input_of_a_plan(client):
    assert "for which this page has no input" not in client.get("/?content=").text
    assert client.get("/estimate.json?content=").json() == client.get("/estimate.json").json()


def test_the_address_of_an_import_shows_the_page(client):
    assert client.get("/import", follow_redirects=False).headers["location"] == "/"


def test_settings_of_a_file_without_a_field_on_the_page_are_listed(client):
    content = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}
    model = {"model": "openai-community/gpt2", "gpu": "l40s"}
    text = client.post("/import", data={**model, "content": json.dumps(content)}).text
    assert "<code>offload_optimizer: " in text
    assert "has no field on this page" in text
