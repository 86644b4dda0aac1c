"""The plan page shows configurations, error messages, or the nearest miss."""

import json
import random
import re
from html import unescape

import pytest

from app.pages.plan.form import DEFAULTS, LABELS, read
from calculator.common.errors import PlanError
from calculator.planning.request import parse_plan

#: A config.json of a model that no catalogue has.
SMALL = {"model_type": "gpt2", "n_layer": 2, "n_embd": 256, "n_head": 4, "vocab_size": 1000}


def text_of(client, address):
    return client.get(f"/plan{address}").text


def test_the_first_view_proposes_configurations_already(client):
    response = client.get("/plan")
    assert response.status_code == 200
    assert "LoRA, r 16 on every linear layer" in response.text
    assert response.text.count('class="card configuration"') >= 4
    assert '<a href="/plan" aria-current="page">Plan</a>' in response.text


def test_the_figures_and_their_order_are_those_of_the_api(client):
    answer = client.get("/plan.json").json()["plans"][0]
    text = text_of(client, "")
    required = [c["estimate"]["memory"]["required_bytes"] for c in answer["configurations"]]
    shown = re.findall(r'data-label="Required"><data value="(\d+)"', text)
    assert [int(value) for value in shown] == required
    assert re.findall(r'<span class="rank">(\d)</span>', text) == [str(i + 1) for i in range(len(required))]
    for configuration in answer["configurations"]:
        assert all(reason["sentence"] in unescape(text) for reason in configuration["reasons"])
        assert all(reason["rule"]["source"] in unescape(text) for reason in configuration["reasons"])


def test_each_configuration_opens_on_the_page_that_checks_it(client):
    answer = client.get("/plan.json?reserved=rule").json()["plans"][0]
    links = re.findall(r'class="open" href="([^"]+)"', text_of(client, "?reserved=rule"))
    assert len(links) == len(answer["configurations"])
    for link, configuration in zip(links, answer["configurations"], strict=True):
        checked = client.get(f"/estimate.json{unescape(link)[1:]}").json()
        assert checked["memory"] == configuration["estimate"]["memory"]
        assert client.get(unescape(link)).status_code == 200


def test_the_pages_json_equals_the_apis_answer(client):
    body = {
        "model": "meta-llama/Llama-3.2-1B",
        "device": {"gpu": "t4", "type": "cuda"},
        "needs": {"tasks": 4, "switch_per_request": True},
    }
    as_json = client.get("/plan.json?model=meta-llama/Llama-3.2-1B&gpu=t4&tasks=4&switch_per_request=true").json()
    assert as_json == client.post("/api/v1/plan", json=body).json()


def test_the_json_page_refuses_settings_without_an_input(client):
    response = client.get("/plan.json?seq_len=5")
    assert response.status_code == 422
    assert response.json()["errors"][0]["loc"] == "seq_len"
    assert "seq_len" in text_of(client, "?seq_len=4096")


def test_every_input_has_a_label_and_its_help(client):
    text = text_of(client, "")
    for name, label in LABELS.items():
        if name != "priorities":
            assert re.search(rf'<label for="{name}">[^<]*', text), name
        assert f'id="{name}-help"' in text
        assert text.count(f'id="{name}"') == 1, name
        assert label


WRONG = "?sequence_length=abc&tasks=0&model=no-such-model&gpu=no-such-card&max_trainable_fraction=2&priorities=price"


def test_wrong_input_is_a_422_with_a_summary_that_links_to_each_field(client):
    response = client.get(f"/plan{WRONG}")
    assert response.status_code == 422
    for name in ("sequence_length", "tasks", "gpu", "max_trainable_fraction", "priorities"):
        assert f'<a href="#{name}">' in response.text
        assert re.search(rf'id="{name}"[^>]*aria-invalid="true"', response.text), name
        assert re.search(rf'id="{name}-error"[^>]*><span class="visually-hidden">Error: </span>.+', response.text)


def test_everything_typed_is_kept_and_escaped(client):
    text = text_of(client, f"{WRONG}&gpus=%22%3E%3Cscript%3E")
    assert 'value="no-such-model"' in text
    assert 'value="abc"' in text
    assert "<option selected>no-such-card</option>" in text
    assert "<option selected>price</option>" in text
    assert "<script>" not in text


def test_needs_that_contradict_each_other_are_reported_at_their_field(client):
    response = client.get("/plan?must_merge=true&frozen_base=true")
    assert response.status_code == 422
    assert '<a href="#must_merge">Must merge</a>' in response.text


def test_a_plan_in_which_nothing_fits_links_to_changes_that_fit(client):
    text = unescape(text_of(client, "?model=meta-llama/Llama-3.1-70B&reserved=rule"))
    assert "Nothing fits" in text
    assert "Of the catalogue's NVIDIA GPUs with compute capability 8.0 or later, the smallest that fits it" in text
    spare = re.search(r'href="([^"]+)">[^<]+ to spare</a>', text)[1]
    assert 'data-verdict="fits"' in client.get(spare).text
    card = re.search(r'href="(/plan\?[^"]+)">plan for this GPU</a>', text)[1]
    change = re.search(r'href="(/plan[^"]*)">meta-llama/Llama-3.1-8B, of the same series', text)[1]
    assert change == "/plan?reserved=rule"
    for address in (card, change):
        assert 'class="card configuration"' in client.get(address).text


def test_the_nearest_miss_is_shown_as_fully_as_a_configuration(client):
    text = unescape(text_of(client, "?model=meta-llama/Llama-3.1-8B&gpu=rtx-3070&reserved=rule"))
    assert "<dd>paged_adamw_8bit</dd>" in text.replace("<wbr>", "")
    assert "2,048 tokens each" in text
    assert "No shorter sequence makes it fit" in text_of(client, "?gpu=rtx-2060&reserved=rule")


def test_a_warning_of_all_estimates_is_shown_once(client):
    text = unescape(text_of(client, "?model=meta-llama/Llama-2-7b-hf&sequence_length=4224&reserved=rule"))
    assert text.count("The sequence is longer than the model's 4,096 positions") == 1
    assert "bitsandbytes does not quantize experts" in text_of(
        client, "?model=mistralai/Mixtral-8x7B-v0.1&reserved=rule"
    )


def test_a_change_that_leaves_more_memory_free_is_a_link(client):
    text = text_of(client, "?model=meta-llama/Llama-3.2-3B&gpu=rtx-3070&reserved=rule")
    link, spare = re.search(r'href="([^"]+)">With rank 8</a>: ([^ ]+) GiB to spare', text).groups()
    assert spare in client.get(unescape(link)).text


def test_a_priority_that_is_named_twice_is_reported_at_its_field(client):
    response = client.get("/plan?priorities=speed,speed")
    assert response.status_code == 422
    assert '<a href="#priorities">' in response.text


def test_a_posted_config_redirects_to_its_address(client):
    config = json.dumps(SMALL, indent=4)
    response = client.post("/plan", data={"config": config}, follow_redirects=False)
    assert response.status_code == 303
    landed = client.get(response.headers["location"])
    assert landed.status_code == 200
    assert '<h2 id="plan-1-title">gpt2' in landed.text


def test_a_config_too_long_for_an_address_is_answered_without_a_redirect(client):
    long = {**SMALL, "id2label": {str(i): f"label {i}" for i in range(2000)}}
    response = client.post("/plan", data={"config": json.dumps(long)}, follow_redirects=False)
    assert response.status_code == 200
    assert "Link to these needs" not in response.text


#: Texts that few inputs expect.
TEXTS = ("", "x" * 300, "é\x00", "1e400", "9" * 5000, ",")


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_no_text_in_an_input_causes_a_server_error(client, name):
    """Every text as a request, and one of them, drawn, as a page."""
    small = {"model": "gpt2", "gpu": "t4", "reserved": "rule"}
    for text in TEXTS:
        form = read({**small, name: text}.items())
        try:
            parse_plan(form.body())
        except PlanError as refused:
            form.messages(refused.problems)
    drawn = {**small, name: random.Random(name).choice(TEXTS)}
    assert client.get("/plan", params=drawn).status_code in (200, 422)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:5]))
def test_no_text_in_every_input_causes_a_server_error(client, text):
    typed = dict.fromkeys(DEFAULTS.keys() - {"model", "config"}, text)
    assert client.post("/plan", data=typed).status_code in (200, 422)


def test_no_page_loads_anything_from_another_server(client):
    for address in ("", WRONG, "?model=meta-llama/Llama-3.1-70B&reserved=rule"):
        text = text_of(client, address)
        assert re.findall(r'(?:src|srcset|action|formaction)="(?:https?:)?//', text) == []
        assert re.findall(r"\sstyle=|<style|\son[a-z]+=\"", text) == []


def test_a_plan_by_cost_shows_what_a_million_tokens_cost(client):
    plan = "/plan?model=meta-llama/Llama-3.2-1B&gpu=a100-sxm4-80gb&priorities=cost&reserved=rule&price_per_hour=2"
    page = client.get(plan).text
    assert "<dt>A million tokens</dt>" in page
    assert "price_per_hour of the request" in page


def test_a_plan_by_cost_without_a_price_names_the_field(client):
    page = client.get("/plan?model=gpt2&gpu=rtx-4060&priorities=cost&reserved=rule")
    assert page.status_code == 422
    assert 'id="price_per_hour-error"' in page.text
    assert "a cost needs a price" in page.text


def test_several_gpus_without_a_sharding_have_a_table_of_shardings(client):
    address = "?model=meta-llama/Llama-3.2-1B&count=2&reserved=rule"
    device = {"gpu": "rtx-4090", "count": 2, "type": "cuda"}
    body = {"model": "meta-llama/Llama-3.2-1B", "device": device, "reserved": "rule"}
    answer = client.get(f"/plan.json{address}").json()
    assert answer == client.post("/api/v1/plan", json=body).json()
    (part,) = answer["plans"]
    table = text_of(client, address).partition('class="stacked shardings"')[2].partition("</table>")[0]
    named = re.findall(r'<th scope="row"><a href="[^"]*count=2[^"]*">(\w+)</a>', table)
    assert named == [sharding["sharding"] for sharding in part["shardings"] if sharding["request"]]
    required = [int(value) for value in re.findall(r'data-label="Required"><data value="(\d+)"', table)]
    assert required == [sharding["required_bytes"] for sharding in part["shardings"] if sharding["request"]]
    assert part["configurations"][0]["sent_bytes"] == part["shardings"][0]["sent_bytes"] > 0


def test_errors_of_several_gpus_are_at_their_fields(client):
    response = client.get("/plan?count=3")
    assert response.status_code == 422
    assert 'is-wrong" data-field="effective_batch_size"' in response.text
    assert 'is-wrong" data-field="count"' in client.get("/plan?sharding=ddp").text
