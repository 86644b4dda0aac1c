"""A config.json that was typed: in the address, or in the form if it is too long for one."""

import json
import re

import pytest

from calculator.devices import gpus
from calculator.methods import METHODS, USUAL_METHODS


def test_a_posted_config_redirects_to_its_address(client):
    config = client.get("/api/v1/models/TinyLlama/TinyLlama-1.1B-Chat-v1.0").json()["config"]
    response = client.post("/", data={"config": json.dumps(config, indent=4)}, follow_redirects=False)
    assert response.status_code == 303
    landed = client.get(response.headers["location"])
    assert landed.status_code == 200
    assert "a llama of 1,100,048,384 parameters" in landed.text


def test_a_config_too_long_for_an_address_is_answered_without_a_redirect(client):
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


def test_a_config_that_has_an_address_is_not_in_every_link(client):
    config, short = long_config(client, 150), long_config(client, 1)
    text, of_short = (client.post("/", data={"config": typed}).text for typed in (config, short))
    assert '<link rel="canonical" href="/?config=' in text
    assert len(text) < len(of_short) + 50 * (len(config) - len(short))


def changes(text):
    """The buttons of a page that stand in for links, by their words."""
    found = re.findall(r'<button class="link"[^>]* name="change" value="([^"]*)"[^>]*>(.*?)</button>', text)
    return {words: value.replace("&amp;", "&") for value, words in found}


def test_with_a_long_config_buttons_replace_links(client):
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
