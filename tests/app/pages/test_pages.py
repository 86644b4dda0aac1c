"""Pages show a plan, or error messages with everything that was typed."""

import json
import random
import re
from html import unescape
from urllib.parse import parse_qsl, urlencode

import pytest

from app.forms.fields import DEVICE, FIELDS, METHOD, TRAINING, found
from app.forms.layout import CHOSEN
from app.forms.plan_form import DEFAULTS, read
from calculator.common.errors import PlanError
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
def test_the_twin_of_the_page_is_what_the_api_answers(client, method):
    address = f"?method={method}&gradient_checkpointing=false"
    body = re.search(r"-d &#39;(.*?)&#39;|-d '(.*?)'", client.get(f"/{address}").text)
    request = json.loads(body[1] or body[2])
    assert client.get(f"/estimate.json{address}").json() == client.post("/api/v1/estimate", json=request).json()


def test_the_comparison_has_a_twin_too(client):
    rows = client.get("/compare.json?r=4").json()["rows"]
    assert tuple(row["method"]["name"] for row in rows) == USUAL_METHODS


def test_a_twin_refuses_what_no_input_has(client):
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
    address = f"?method={method}&gradient_checkpointing=false&gpu=&{empty}"
    text = client.get(f"/{address}").text
    request = parse_request(read(parse_qsl(address[1:], keep_blank_values=True)).estimate())
    for field in numbers:
        shown = re.search(rf'id="{field.name}" name="{field.name}" value="" placeholder="([^"]+)"', text)
        default = found(getattr(request, field.part.split(".")[0]), field.keys, field.declared.default)
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
    assert re.search(r'<th scope="row">Rank</th>\s*<td class="figure" data-label="In the plan">8</td>', text)


def test_every_card_and_every_model_can_be_chosen(client):
    text = client.get("/").text
    for card in gpus():
        assert f'<option value="{card.id}"' in text
    for model in client.get("/api/v1/models").json()["models"]:
        assert f'<option value="{model["id"]}"' in text


WRONG = "/?sequence_length=abc&r=0&model=no-such-model&gpu=no-such-card&memory_gib=24+GB&optimizer=magic"


def test_wrong_input_is_a_422_with_a_summary_that_leads_to_each_field(client):
    response = client.get(WRONG)
    assert response.status_code == 422
    for name in ("sequence_length", "r", "memory_gib", "optimizer"):
        assert f'<a href="#{name}">' in response.text
        assert re.search(rf'id="{name}"[^>]*aria-invalid="true"', response.text), name
        assert re.search(rf'id="{name}-error"[^>]*><span class="visually-hidden">Error: </span>.+', response.text)


def test_everything_typed_is_kept(client):
    text = client.get(WRONG).text
    for typed in ("abc", "no-such-model", "24 GB"):
        assert f'value="{typed}"' in text
    assert "<option selected>no-such-card</option>" in text
    assert "<option selected>magic</option>" in text


def test_what_is_typed_is_escaped(client):
    text = client.get("/", params={"model": '"><script>alert(1)</script>', "config": "</textarea><b>"}).text
    assert "<script>alert" not in text
    assert "</textarea><b>" not in text


def test_a_refused_combination_gives_the_reason_and_leads_to_the_nearest_plan(client):
    response = client.get("/?method=prefix")
    assert response.status_code == 422
    link = re.search(r'<a href="(/\?[^"]*)">without gradient checkpointing</a>', response.text)
    assert client.get(link[1].replace("&amp;", "&")).status_code == 200


@pytest.mark.parametrize(
    ("model", "target_modules", "method"),
    [
        ("deepseek-ai/DeepSeek-V3", "all-linear", "lora"),
        ("mistralai/Mixtral-8x7B-v0.1", "", "qlora"),
        ("allenai/OLMoE-1B-7B-0924", "q_proj,gate", "lora"),
        ("Qwen/Qwen3-235B-A22B", "gate", "qlora"),
    ],
)
def test_a_mixture_of_experts_leads_to_the_nearest_targets_that_can_be_adapted(client, model, target_modules, method):
    typed = {"model": model, "target_modules": target_modules, "method": method, "gpu": "", "reserved": "rule"}
    response = client.get("/", params=typed)
    assert response.status_code == 422
    link = re.search(r'The nearest plan: <a href="(/\?[^"]*)">with target modules [a-z_, ]+</a>', response.text)
    assert client.get(unescape(link[1])).status_code == 200


@pytest.mark.parametrize(
    ("model", "tasks"),
    [
        ("google-bert/bert-base-uncased", ["seq_cls", "token_cls", "question_ans"]),
        ("google/vit-base-patch16-224-in21k", ["image_cls"]),
    ],
)
def test_a_model_of_other_tasks_links_to_the_plan_of_each(client, model, tasks):
    response = client.get("/", params={"model": model, "method": "lora"})
    assert response.status_code == 422
    proposed = response.text.partition("Plan it for: ")[2].partition("</p>")[0]
    links = re.findall(r'<a href="([^"]*)">([a-z_]+)</a>', proposed)
    assert [task for _, task in links] == tasks
    assert client.get(unescape(links[0][0])).status_code == 200
    assert "Plan it for" not in client.get("/", params={"model": "gpt2", "r": "0"}).text


def test_an_unknown_method_is_named(client):
    response = client.get("/?method=magic")
    assert response.status_code == 422
    assert "must be one of" in response.text


def test_a_card_may_be_named_as_people_name_it(client):
    text = client.get("/?gpu=4090").text
    assert '<option value="rtx-4090" selected>' in text


def test_without_a_card_the_required_memory_is_shown(client):
    text = client.get("/?gpu=").text
    assert "Choose a card to see whether it fits" in text
    assert "Which cards fit" in text


def test_a_plan_that_does_not_fit_states_that_several_cards_take_sharding(client):
    text = client.get("/?model=meta-llama/Llama-3.1-70B&reserved=rule").text
    assert "does not fit" in text
    assert re.search(r"With sharding \(ZeRO or FSDP\), it takes at least \d+ such cards\.", text)
    assert "Without it, and with DDP, more cards do not help" in text


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


def test_the_table_of_cards_states_that_several_take_sharding(client):
    text = client.get("/?model=meta-llama/Llama-3.1-70B&reserved=rule").text
    assert '<th scope="col" class="figure">Cards, sharded</th>' in text
    assert "More than one card takes sharding (ZeRO or FSDP)" in text


def test_a_posted_config_leads_to_its_address(client):
    config = client.get("/api/v1/models/TinyLlama/TinyLlama-1.1B-Chat-v1.0").json()["config"]
    response = client.post("/", data={"config": json.dumps(config, indent=4)}, follow_redirects=False)
    assert response.status_code == 303
    landed = client.get(response.headers["location"])
    assert landed.status_code == 200
    assert "a llama of 1,100,048,384 parameters" in landed.text


def test_a_config_too_long_for_an_address_is_answered_at_once(client):
    config = client.get("/api/v1/models/TinyLlama/TinyLlama-1.1B-Chat-v1.0").json()["config"]
    long = {**config, "id2label": {str(i): f"label {i}" for i in range(2000)}}
    response = client.post("/", data={"config": json.dumps(long)}, follow_redirects=False)
    assert response.status_code == 200
    assert "too long for a link" in response.text


def long_config(client, entries):
    config = client.get("/api/v1/models/TinyLlama/TinyLlama-1.1B-Chat-v1.0").json()["config"]
    return json.dumps({**config, "id2label": {str(i): f"label {i}" for i in range(entries)}}, separators=(",", ":"))


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_a_page_repeats_a_long_config_only_in_its_field_and_its_request(client, method):
    config = long_config(client, 2000)
    text = client.post("/", data={"config": config, "method": method}).text
    assert len(text) < len(client.get(f"/?method={method}").text) + 4 * len(config)
    assert text.count("label 1999") <= 2
    assert max(map(len, re.findall(r'(?:href|action|value)="([^"]*)"', text))) < 1000
    assert '<form id="plan" class="plan-form" autocomplete="off" action="/" method="post"' in text


def test_a_config_that_has_an_address_does_not_stand_in_every_link(client):
    text = client.post("/", data={"config": long_config(client, 150)}).text
    assert '<link rel="canonical" href="/?config=' in text
    assert len(text) < 500_000


def changes(text):
    """The buttons of a page that stand in for links, by their words."""
    found = re.findall(r'<button class="link"[^>]* name="change" value="([^"]*)"[^>]*>(.*?)</button>', text)
    return {words: value.replace("&amp;", "&") for value, words in found}


def test_buttons_lead_from_a_long_config_where_links_lead_from_others(client):
    typed = {"config": long_config(client, 500), "r": "32", "gpu": "", "memory_gib": "12"}
    buttons = changes(client.post("/", data=typed).text)
    assert {METHODS[name].facts.label for name in USUAL_METHODS} <= buttons.keys()
    assert {card.name for card in gpus()} <= {re.sub("&#39;", "'", words) for words in buttons}
    assert "Without prepare for k-bit training" in buttons
    assert all(len(value) < 100 for value in buttons.values())
    text = client.post("/", data={**typed, "change": buttons["L40S"]}).text
    assert '<option value="l40s" selected>' in text
    assert re.search(r'id="memory_gib"[^>]*value=""', text)
    assert re.search(r'id="r"[^>]*value="32"', text)
    text = client.post("/", data={**typed, "change": buttons["LoRA"]}).text
    assert re.search(r'id="method-lora"[^>]*checked', text)


def test_the_nearest_plan_of_a_long_config_is_a_button_too(client):
    typed = {"config": long_config(client, 500), "method": "prefix"}
    response = client.post("/", data=typed)
    assert response.status_code == 422
    button = changes(response.text)["without gradient checkpointing"]
    assert client.post("/", data={**typed, "change": button}).status_code == 200


def test_a_config_that_is_not_json_is_reported_at_its_field(client):
    response = client.get("/", params={"config": "{nope"})
    assert response.status_code == 422
    assert "config.json is not JSON" in response.text
    assert '<a href="#config">' in response.text


def test_a_form_that_is_too_large_is_refused(client):
    assert client.post("/", data={"config": "x" * (2 << 20)}).status_code == 413


def test_names_in_the_address_that_no_input_has_are_reported(client):
    assert "seq_len" in client.get("/?seq_len=4096").text


#: Texts that few inputs expect.
TEXTS = ("", "0", "-1", "x" * 300, "é\x00", "1e400", "9" * 5000, "9" * 5000 + ":1", "[]", "true")

#: A plan that is quick to compute.
SMALL = {"model": "gpt2", "gpu": "", "reserved": "rule", "target_modules": "", "gradient_checkpointing": "false"}


def having(name):
    """The first method that has an input."""
    return next((method for method, fields in METHOD.items() if name in {field.name for field in fields}), "qlora")


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_no_text_in_an_input_meets_a_fault(client, name):
    """Every text as a request, and one of them, drawn, as a page."""
    small = {**SMALL, "method": having(name)}
    for text in TEXTS:
        form = read({**small, name: text}.items())
        try:
            parse_request(form.estimate())
        except PlanError as refused:
            form.messages(refused.problems)
    drawn = {**small, name: random.Random(name).choice(TEXTS)}
    assert client.get("/", params=drawn).status_code in (200, 422)
    assert client.get("/estimate.json", params=drawn).status_code in (200, 422)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:5]))
def test_no_text_in_every_input_meets_a_fault(client, text):
    typed = dict.fromkeys(DEFAULTS.keys() - {"model", "config", "method"}, text)
    assert client.post("/", data=typed).status_code in (200, 413, 422)


def test_the_first_page_is_small(client):
    response = client.get("/", headers={"accept-encoding": "gzip"})
    assert response.headers["content-encoding"] == "gzip"
    links = re.findall(r'(?:href|src)="(/static/[^"]+)"', response.text)
    first = [int(client.head(link, headers={"accept-encoding": "gzip"}).headers["content-length"]) for link in links]
    assert len(links) >= 4
    assert int(response.headers["content-length"]) + sum(first) < 200_000


def test_static_files_under_their_mark_are_kept_for_good(client):
    link = re.search(r'href="(/static/style\.css\?v=[^"]+)"', client.get("/").text)[1]
    assert "immutable" in client.get(link).headers["cache-control"]
    assert client.get("/static/style.css").headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", ["/", "/docs", "/nothing", "/api/v1/gpus", "/api/v1/nothing", "/static/app.js"])
def test_every_answer_has_the_security_headers(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/docs", WRONG, "/nothing"])
def test_no_page_leads_a_browser_to_another_server(client, path):
    text = client.get(path).text
    assert re.findall(r'(?:src|srcset|action|formaction)="(?:https?:)?//', text) == []
    assert re.findall(r"<link[^>]+href=\"(?:https?:)?//", text) == []
    assert re.findall(r"\sstyle=|<style|\son[a-z]+=\"", text) == []


def test_the_documentation_lists_every_operation_and_problem(client):
    """Swagger UI shows the rest, from the document."""
    text = client.get("/docs").text
    operations = re.findall(r'<span class="verb">(\w+)</span> <code>(\S+)</code> (.+)</li>', text)
    document = client.get("/api/v1/openapi.json").json()
    assert [(verb, path, unescape(summary)) for verb, path, summary in operations] == [
        (verb.upper(), path, operation["summary"])
        for path, verbs in document["paths"].items()
        for verb, operation in verbs.items()
    ]
    assert 'id="problem-invalid-request"' in text


def test_a_plan_of_images_asks_for_no_length(client):
    plan = "/?model=google/vit-base-patch16-224-in21k&method=lora&target_modules=q_proj,v_proj&reserved=rule"
    text = client.get(f"{plan}&task=image_cls").text
    assert re.search(r'data-field="sequence_length" hidden', text)
    assert re.search(r'data-field="micro_batch_size">', text)
    assert "An image is 197 tokens" in text
    wrong = client.get(f"{plan}&task=image_cls&sequence_length=512").text
    assert re.search(r'data-field="sequence_length">', wrong)
    assert "an image is 197 tokens, by image_size 224 and patch_size 16" in unescape(wrong)
    assert "set task image_cls" in client.get(plan).text


def test_a_fault_is_answered_and_logged(client, monkeypatch, caplog):
    def broken(_):
        raise RuntimeError("a fault for the test")

    monkeypatch.setattr("app.pages.estimate.routes.read", broken)
    monkeypatch.setattr("app.pages.estimate.routes.read_strictly", broken)
    for address, kind in (("/", "text/html; charset=utf-8"), ("/estimate.json", "application/problem+json")):
        caplog.clear()
        response = client.get(address)
        assert (response.status_code, response.headers["content-type"]) == (500, kind)
        assert "an error in Headroom itself" in response.text
        assert "a fault for the test" not in response.text
        assert "nosniff" in response.headers["x-content-type-options"]
        assert "a fault for the test" in caplog.text
