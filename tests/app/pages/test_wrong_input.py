"""A plan's form reports a refusal at its field and keeps everything that was typed."""

import random
import re

import pytest

from app.forms.fields import METHOD
from app.forms.plan_form import DEFAULTS, read
from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request

WRONG = "/?sequence_length=abc&r=0&model=no-such-model&gpu=no-such-card&memory_gib=24+GB&optimizer=magic"


def test_wrong_input_is_a_422_with_a_summary_that_links_to_each_field(client):
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


def test_typed_text_is_escaped(client):
    text = client.get("/", params={"model": '"><script>alert(1)</script>', "config": "</textarea><b>"}).text
    assert "<script>alert" not in text
    assert "</textarea><b>" not in text


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
def test_no_text_in_an_input_causes_an_internal_error(client, name):
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
def test_no_text_in_all_inputs_causes_an_internal_error(client, text):
    typed = dict.fromkeys(DEFAULTS.keys() - {"model", "config", "method"}, text)
    assert client.post("/", data=typed).status_code in (200, 413, 422)
