"""The difference page compares two or more plans by their links, and so does its JSON version."""

from html import unescape
from urllib.parse import urlencode

import pytest


def address(*plans):
    return f"?{urlencode([('plan', plan) for plan in plans])}"


def test_plans_are_side_by_side_with_the_figures_of_the_json(client):
    query = address("/", "/?r=32&micro_batch_size=4", "http://127.0.0.1:8000/?method=lora")
    response = client.get(f"/difference{query}")
    answer = client.get(f"/difference.json{query}").json()
    assert response.status_code == 200
    assert [line["path"] for line in answer["settings"]][:2] == ["method.name", "method.r"]
    for part in answer["components"]:
        for count in filter(None, part["bytes"]):
            assert f'value="{count}"' in response.text
    for plan, query in zip(answer["plans"], ("", "?r=32&micro_batch_size=4", "?method=lora"), strict=True):
        estimate = client.get(f"/estimate.json{query}").json()
        assert plan["required_bytes"] == estimate["memory"]["required_bytes"]
        assert plan["address"] == f"/{query}"


def test_the_empty_page_says_where_a_link_is(client):
    assert 'The address of <a href="/">an estimate\'s page</a> is its link.' in client.get("/difference").text


def test_an_object_of_settings_is_named_by_its_path(client):
    query = address("/", "/?trainer=transformers&gradient_checkpointing=true&use_reentrant=true")
    response = client.get(f"/difference{query}")
    assert response.status_code == 200
    assert "training.gradient_checkpointing_kwargs" in response.text
    assert '{"use_reentrant": true}' in unescape(response.text)


def test_a_setting_whose_name_several_methods_have_gets_the_label_of_the_plans_method(client):
    plans = [f"/?model=gpt2&method=qlora&qlora_quant_type={quant_type}" for quant_type in ("nf4", "fp4")]
    text = client.get("/difference", params={"plan": plans}).text
    assert '<th scope="row">4-bit type</th>' in text
    assert "torchao" not in text


def test_a_single_plan_shows_that_another_is_needed(client):
    response = client.get(f"/difference{address('/?r=32')}")
    assert response.status_code == 200
    assert 'value="/?r=32"' in response.text
    assert 'id="plan-2"' in response.text
    assert "Row by row" not in response.text


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("/plan?tasks=2", "is not the link of an estimate"),
        ("/?seq_len=5", "has seq_len, which is not a field of an estimate"),
        ("/?r=0", "Rank: must be at least 1"),
        ("?model=no-such-model", "no-such-model' is not in the catalogue"),
    ],
)
def test_an_invalid_plan_is_reported_at_its_field_and_kept(client, typed, message):
    response = client.get(f"/difference{address('/', typed)}")
    text = unescape(response.text)
    assert response.status_code == 422
    assert message in text
    assert f'value="{typed}"' in text
    assert '<a href="#plan-2">' in text
    assert client.get(f"/difference.json{address('/', typed)}").status_code == 422


def test_more_plans_than_are_side_by_side_are_refused(client):
    assert client.get(f"/difference{address(*['/'] * 6)}").status_code == 200
    response = client.get(f"/difference{address(*['/'] * 8)}")
    assert response.status_code == 422
    assert "at most 6 runs" in response.text
    assert client.get(f"/difference.json{address(*['/'] * 7)}").json()["errors"][0]["loc"] == "plan"


def test_the_same_plan_twice_differs_in_nothing(client):
    text = client.get(f"/difference{address('/', '/?r=16')}").text
    assert "They are the same run." in text
    assert "No row differs." in text


def test_a_plan_links_to_the_comparison_and_each_suggestion_to_its_rows(client):
    text = unescape(client.get("/?r=32").text)
    assert "/difference?plan=%2F%3Fr%3D32" in text
    assert "/difference?plan=%2F%3Fr%3D32&plan=%2F%3Fr%3D32%26prepare_model_for_kbit_training%3Dfalse" in text
