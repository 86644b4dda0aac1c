"""The inference page: a form with its state in the address, the answer, and the JSON version."""

import re
from html import unescape
from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.forms.fields import INFERENCE_FIELDS as FIELDS
from app.forms.fields import SERVING
from app.forms.plan_form import FIRST_PLAN
from app.pages.inference import form as inference_form


def text(html):
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html)))


def test_the_first_view_answers_something(client):
    response = client.get("/inference")
    assert response.status_code == 200
    shown = text(response.text)
    for words in ("Fits", "KV cache", "Last decoding step", "Operations per token", "Assumptions and limits"):
        assert words in shown
    assert '<nav aria-label="Pages">' in response.text
    assert 'href="/inference" aria-current="page"' in response.text


def test_every_input_is_there_with_its_label_and_help(client):
    html = client.get("/inference?reserved=rule").text
    for name, field in FIELDS.items():
        assert f'id="{name}"' in html
        if field in SERVING:
            assert field.declared.setting.help in unescape(html)


@pytest.mark.parametrize(
    "address",
    [
        "?tasks=20&batch_size=4",
        "?method=qlora&merged=true&gpu=rtx-4060&reserved=rule",
        "?method=prefix&num_virtual_tokens=30&padding=true&reserved=rule",
        "?model=google%2Fgemma-3-1b-pt&storage=nf4&bnb_4bit_use_double_quant=false&gpu=&memory_gib=8",
    ],
)
def test_the_page_and_its_json_have_the_same_figures(client, address):
    page, as_json = client.get(f"/inference{address}"), client.get(f"/inference.json{address}")
    assert page.status_code == as_json.status_code == 200
    memory = as_json.json()["memory"]
    assert f'value="{memory["peak_allocated_bytes"]}"' in page.text
    assert f'value="{memory["required_bytes"]}"' in page.text
    linked = unescape(re.search(r'href="(/inference\.json[^"]*)"', page.text)[1])
    assert client.get(linked).json() == as_json.json()


def test_a_merge_is_shown_with_its_tensors_and_its_loss(client):
    shown = text(client.get("/inference?method=qlora&merged=true&reserved=rule").text)
    assert "weight, dequantized" in shown
    assert "may get different generations due to rounding errors" in shown


def test_an_error_is_shown_at_its_field_and_everything_typed_is_kept(client):
    response = client.get("/inference?batch_size=0&tasks=0&context_length=777")
    assert response.status_code == 422
    assert 'id="batch_size-error" data-live="error-batch_size"><span class="visually-hidden">Error' in response.text
    assert 'value="777"' in response.text
    assert 'href="#tasks"' in response.text
    assert 'href="#batch_size"' in response.text


def test_a_method_that_cannot_be_merged_is_refused_at_its_field(client):
    response = client.get("/inference?method=adapter&merged=true")
    assert response.status_code == 422
    assert "Adapters can't be merged into the weights" in text(response.text)
    assert 'href="#merged"' in response.text


def test_unknown_names_in_an_address_are_noted_on_the_page_and_refused_in_json(client):
    assert "for which this page has no input" in text(client.get("/inference?optimizer=sgd").text)
    refused = client.get("/inference.json?optimizer=sgd")
    assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (422, "optimizer")


def test_a_pasted_config_is_served_and_redirects_to_its_address(client):
    config = (
        '{"model_type": "llama", "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 2,'
        ' "num_attention_heads": 4, "vocab_size": 1000}'
    )
    response = client.post("/inference", data={"config": config}, follow_redirects=False)
    assert response.status_code == 303
    page = client.get(response.headers["location"])
    assert page.status_code == 200
    assert "a llama of" in text(page.text)


def test_the_plan_links_to_the_memory_of_serving_it(client):
    found = re.search(r'href="(/inference[^"]*)">the memory to serve it', client.get("/?r=32").text)
    address = unescape(found[1])
    as_json = client.get(address.replace("/inference", "/inference.json")).json()
    assert (as_json["method"]["name"], as_json["method"]["r"]) == (FIRST_PLAN["method"], 32)
    assert as_json["fit"]["gpu"] == FIRST_PLAN["gpu"]


def test_a_configuration_links_to_the_memory_of_serving_all_tasks(client):
    html = client.get("/plan?tasks=20&switch_per_request=true&gpu=l40s").text
    addresses = [unescape(found) for found in re.findall(r'href="(/inference[^"]*)">Memory to serve it', html)]
    assert addresses
    for address in addresses:
        answer = client.get(address.replace("/inference", "/inference.json")).json()
        assert (answer["serving"]["tasks"], answer["fit"]["gpu"]) == (20, "l40s")


def test_a_model_that_must_be_merged_is_served_merged(client):
    html = client.get("/plan?must_merge=true").text
    address = unescape(re.search(r'href="(/inference[^"]*)">Memory to serve it', html)[1])
    assert client.get(address.replace("/inference", "/inference.json")).json()["serving"]["merged"]


VALUES = st.dictionaries(st.sampled_from(sorted(inference_form.DEFAULTS)), st.text(max_size=12), max_size=5)


@given(values=VALUES)
@example(values={"config": "\r", "model": ""})
def test_an_address_contains_everything_that_is_typed(values):
    form = inference_form.read(values.items())
    assert inference_form.read(parse_qsl(form.address()[1:], keep_blank_values=True)).typed == form.typed
