"""The page of a plan: its figures, inputs, links and sentences."""

import json
import re
from html import unescape
from urllib.parse import parse_qsl, urlencode

import pytest

from app.forms.fields import DEVICE, FIELDS, METHOD, TRAINING, value_at
from app.forms.layout import CHOSEN
from app.forms.plan_form import read
from calculator.devices import gpus
from calculator.estimation.request import parse_request
from calculator.methods import METHODS, USUAL_METHODS


def test_the_first_view_answers_already(client):
    response = client.get("/")
    assert response.status_code == 200
    text = response.text
    assert "Fits" in text
    assert "meta-llama/Llama-3.1-8B" in text
    assert "GeForce RTX 4090" in text
    for name in USUAL_METHODS:
        assert f">{METHODS[name].facts.label}</a>" in text
    assert ">VeRA</a>" not in text


def test_a_ticked_method_is_compared_and_its_settings_are_shown(client):
    text = client.get("/?compared=vera&vera_r=64").text
    assert ">VeRA</a>" in text
    assert re.search(r'id="compared-vera"[^>]* checked', text)
    assert re.search(r'<details class="fold" data-methods="vera"[^>]* hidden', text) is None
    assert re.search(r'<details class="fold" data-methods="miss"[^>]* hidden', text)


def test_the_figures_are_those_of_the_api(client):
    answer = client.get("/estimate.json").json()
    text = client.get("/").text
    assert f'value="{answer["memory"]["required_bytes"]}"' in text
    for component in answer["memory"]["components"]:
        if component["bytes"]:
            assert f'value="{component["bytes"]}"' in text
    assert f"{answer['parameters']['trainable']:,}" in text


@pytest.mark.parametrize("method", [*USUAL_METHODS, "miss", "road"])
def test_the_pages_json_equals_the_apis_answer(client, method):
    address = f"?method={method}&gradient_checkpointing=false"
    body = re.search(r"-d &#39;(.*?)&#39;|-d '(.*?)'", client.get(f"/{address}").text)
    request = json.loads(body[1] or body[2])
    assert client.get(f"/estimate.json{address}").json() == client.post("/api/v1/estimate", json=request).json()


def test_the_comparison_has_json_too(client):
    rows = client.get("/compare.json?r=4").json()["rows"]
    assert tuple(row["method"]["name"] for row in rows) == USUAL_METHODS


def test_the_json_page_refuses_settings_without_an_input(client):
    response = client.get("/estimate.json?seq_len=5")
    assert response.status_code == 422
    assert response.json()["errors"][0]["loc"] == "seq_len"


def test_every_input_has_a_label_and_its_help(client):
    text = client.get("/").text
    assert 'role="radiogroup" aria-labelledby="trainer-label" aria-describedby="trainer-help trainer-error"' in text
    for name, field in FIELDS.items():
        assert text.count(f'id="{name}"') == 1, name
        if name not in CHOSEN:
            assert f'<label for="{name}">' in text
            assert f'id="{name}-help"' in text
            assert field.declared.setting.label in unescape(text)


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_number_shows_its_default(client, method):
    numbers = [field for field in (*METHOD[method], *TRAINING, *DEVICE) if field.control == "number"]
    empty = urlencode({field.name: "" for field in numbers})
    address = f"?method={method}&gradient_checkpointing=false&reserved=rule&gpu=&{empty}"
    text = client.get(f"/{address}").text
    request = parse_request(read(parse_qsl(address[1:], keep_blank_values=True)).estimate())
    for field in numbers:
        shown = re.search(rf'id="{field.name}" name="{field.name}" value="" placeholder="([^"]+)"', text)
        default = value_at(getattr(request, field.part.split(".")[0]), field.keys, field.declared.default)
        assert shown[1] == (field.text(default) or "none"), field.name


@pytest.mark.parametrize("path", ["/", "/plan", "/inference"])
def test_every_number_has_its_default_as_placeholder(client, path):
    text = client.get(path).text
    assert (
        len(re.findall('inputmode="decimal"', text))
        == len(re.findall('inputmode="decimal"[^>]+ placeholder="', text))
        > 2
    )


def test_the_limits_of_a_plan_show_the_default_of_an_empty_field(client):
    text = client.get("/limits?r=&sequence_length=256&reserved=rule").text
    assert re.search(r'<th scope="row">Rank</th>\s*<td class="figure" data-label="In the run">8</td>', text)


def test_every_gpu_and_every_model_can_be_chosen(client):
    text = client.get("/").text
    for card in gpus():
        assert f'<option value="{card.id}"' in text
    for model in client.get("/api/v1/models").json()["models"]:
        assert f'<option value="{model["id"]}"' in text


def test_a_refused_combination_gives_the_reason_and_links_to_the_nearest_plan(client):
    response = client.get("/?method=prefix")
    assert response.status_code == 422
    link = re.search(r'<a href="(/\?[^"]*)">without gradient checkpointing</a>', response.text)
    assert client.get(link[1].replace("&amp;", "&")).status_code == 200


@pytest.mark.parametrize(
    ("model", "target_modules", "method"),
    [
        ("deepseek-ai/DeepSeek-V2-Lite", "all-linear", "lora"),
        ("mistralai/Mixtral-8x7B-v0.1", "", "qlora"),
        ("allenai/OLMoE-1B-7B-0924", "q_proj,gate", "lora"),
        ("Qwen/Qwen3-235B-A22B", "gate", "qlora"),
    ],
)
def test_a_mixture_of_experts_links_to_the_nearest_targets_that_can_be_adapted(client, model, target_modules, method):
    typed = {"model": model, "target_modules": target_modules, "method": method, "gpu": "", "reserved": "rule"}
    response = client.get("/", params=typed)
    assert response.status_code == 422
    link = re.search(r'The nearest accepted run: <a href="(/\?[^"]*)">with target modules [a-z_, ]+</a>', response.text)
    assert client.get(unescape(link[1])).status_code == 200


@pytest.mark.parametrize(
    ("model", "tasks"),
    [
        ("google-bert/bert-base-uncased", ["seq_cls", "token_cls", "question_ans", "feature_extraction"]),
        ("google/vit-base-patch16-224-in21k", ["image_cls"]),
    ],
)
def test_a_model_of_other_tasks_links_to_the_plan_of_each(client, model, tasks):
    response = client.get("/", params={"model": model, "method": "lora"})
    assert response.status_code == 422
    proposed = response.text.partition("Estimate it for: ")[2].partition("</p>")[0]
    links = re.findall(r'<a href="([^"]*)">([a-z_]+)</a>', proposed)
    assert [task for _, task in links] == tasks
    assert client.get(unescape(links[0][0])).status_code == 200
    assert "Estimate it for" not in client.get("/", params={"model": "gpt2", "r": "0"}).text


def test_similar_models_are_linked_with_the_rest_of_the_run(client):
    page = client.get("/?model=Qwen/Qwen3-8B-Instruct&r=32")
    assert page.status_code == 422
    assert "Estimate instead:" in page.text
    assert '<a href="/?model=Qwen%2FQwen3-8B&amp;r=32">Qwen/Qwen3-8B</a>' in page.text
    assert "Estimate instead:" not in client.get("/?model=zzzzzzzz").text


def test_the_largest_tensors_of_the_step_are_counted(client):
    page = client.get("/?model=gpt2&method=lora&reserved=rule").text
    assert "The largest tensor of the step is <em>" in page
    page = client.get("/?method=qlora&tool=trl-sft&reserved=rule").text
    assert "The largest tensors of the step are 31 times <em>model.layers.*.mlp: residual after MLP</em>" in page


def test_an_unknown_method_is_named(client):
    response = client.get("/?method=magic")
    assert response.status_code == 422
    assert "must be one of" in response.text


def test_a_gpu_may_be_named_as_people_name_it(client):
    text = client.get("/?gpu=4090").text
    assert '<option value="rtx-4090" selected>' in text


def test_without_a_gpu_the_required_memory_is_shown(client):
    text = client.get("/?gpu=").text
    assert "Choose a GPU to see whether it fits" in text
    assert "Which GPUs fit" in text


def test_a_plan_that_does_not_fit_states_that_several_gpus_take_sharding(client):
    text = client.get("/?model=meta-llama/Llama-3.1-70B&reserved=rule").text
    assert "does not fit" in text
    assert re.search(r"With sharding \(ZeRO or FSDP\), it takes at least \d+ such GPUs\.", text)
    assert "Without it, and with DDP, more GPUs do not help" in text


@pytest.mark.parametrize(
    ("memory_gib", "sentence"),
    [
        ("7", r"The fewest such GPUs on which it fits with fsdp: <a [^>]*>\d+</a>\. Each requires"),
        ("1", r"With fsdp, no number of such GPUs fits: the least that was found is"),
    ],
)
def test_a_sharded_plan_that_does_not_fit_states_the_fewest_gpus(client, memory_gib, sentence):
    plan = "?model=meta-llama/Llama-3.2-1B&method=full&sharding=fsdp&count=2&gpu=&reserved=rule"
    text = client.get(f"/{plan}&memory_gib={memory_gib}").text
    assert re.search(sentence, text)
    assert "With sharding (ZeRO or FSDP), it takes at least" not in text


def test_the_table_of_gpus_states_that_several_take_sharding(client):
    text = client.get("/?model=meta-llama/Llama-3.1-70B&reserved=rule").text
    assert '<th scope="col" class="figure">GPUs, sharded</th>' in text
    assert "is a lower bound on the number of GPUs with ZeRO or FSDP" in text


def test_the_form_for_images_has_no_sequence_length(client):
    plan = "/?model=google/vit-base-patch16-224-in21k&method=lora&target_modules=q_proj,v_proj&reserved=rule"
    text = client.get(f"{plan}&task=image_cls").text
    assert re.search(r'data-field="sequence_length" hidden', text)
    assert re.search(r'data-field="micro_batch_size">', text)
    assert "An image is 197 tokens" in text
    wrong = client.get(f"{plan}&task=image_cls&sequence_length=512").text
    assert re.search(r'data-field="sequence_length">', wrong)
    assert "an image is 197 tokens, by image_size 224 and patch_size 16" in unescape(wrong)
    assert "set task image_cls" in client.get(plan).text
