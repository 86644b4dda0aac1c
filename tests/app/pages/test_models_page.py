"""The page and the endpoint of model types."""

import re

import pytest

from app.pages.models.view import PER_PAGE
from calculator.families import FAMILIES_WITH_FORWARD


def test_the_page_is_linked_from_every_page(client):
    assert '<a href="/models">Models</a>' in client.get("/plan").text


def test_every_modeled_type_is_listed_as_modeled(client):
    answer = client.get("/api/v1/models/types").json()
    modeled = {row["model_type"] for row in answer["types"] if row["engine"] == "calculator"}
    assert modeled == {*FAMILIES_WITH_FORWARD}


def test_every_type_without_an_engine_has_a_reason(client):
    for row in client.get("/api/v1/models/types").json()["types"]:
        assert (row["engine"] is None) == bool(row["why"]), row["model_type"]
        assert (row["engine"] is None) == (row["grade"] is None)


def test_a_search_finds_types_by_all_of_its_words(client):
    found = client.get("/api/v1/models/types", params={"q": "Qwen3 calculator"}).json()["types"]
    assert {"qwen3", "qwen3_moe"} <= {row["model_type"] for row in found}
    assert all("qwen3" in row["model_type"] or "qwen3" in " ".join(row["catalogue"]).lower() for row in found)


def test_a_search_without_a_result_says_so(client):
    page = client.get("/models", params={"q": "no <such> type"})
    assert page.status_code == 200
    assert "0 types with “no &lt;such&gt; type”" in page.text


def listed(client, **query):
    """The model types of one page, in order."""
    return re.findall(r'<th scope="row">([^<]+)', client.get("/models", params=query).text.split('id="tasks-title"')[0])


def test_the_pages_list_every_type_once(client):
    types = [row["model_type"] for row in client.get("/api/v1/models/types").json()["types"]]
    count = -(-len(types) // PER_PAGE)
    assert [name for number in range(1, count + 1) for name in listed(client, page=str(number))] == types


@pytest.mark.parametrize("number", ["0", "-1", "99", "two", "9" * 5000])
def test_a_number_that_is_not_a_pages_shows_the_first(client, number):
    assert listed(client, page=number) == listed(client)


def test_an_engine_filters_the_types_and_the_pages_keep_it(client):
    types = client.get("/api/v1/models/types").json()["types"]
    refused = [row["model_type"] for row in types if row["engine"] is None]
    assert listed(client, engine="none") == refused[:PER_PAGE]
    assert 'href="/models?engine=none&amp;page=2#types-title"' in client.get("/models", params={"engine": "none"}).text


def test_a_task_counts_its_types(client):
    answer = client.get("/api/v1/models/types").json()
    for task in answer["tasks"]:
        rows = [row for row in answer["types"] if task["task"] in row["tasks"]]
        modeled = [row for row in rows if task["task"] in row["modelled_tasks"]]
        others = [row for row in rows if row not in modeled and row["engine"]]
        assert (len(rows), len(modeled), len(others)) == (task["types"], task["modelled"], task["traced"])


def test_tasks_of_a_traced_type_can_be_modeled(client):
    rows = {row["model_type"]: row for row in client.get("/api/v1/models/types").json()["types"]}
    of_tokens = ["token classification", "question answering"]
    assert (rows["bert"]["engine"], rows["bert"]["modelled_tasks"]) == (
        "traced",
        ["sequence classification", *of_tokens, "feature extraction"],
    )
    assert rows["t5"]["modelled_tasks"] == ["seq2seq LM"]
    assert rows["whisper"]["modelled_tasks"] == ["speech to text"]
    assert rows["llava"]["modelled_tasks"] == ["image-text to text", "feature extraction"]
    assert rows["mistral3"]["modelled_tasks"] == ["feature extraction"]
    assert rows["llama"]["modelled_tasks"] == [
        "causal LM",
        "sequence classification",
        "token classification",
        "feature extraction",
    ]
    assert "modeled: sequence classification" in client.get("/models", params={"q": "bert"}).text


def test_a_type_of_the_catalogue_links_to_its_plans(client):
    (row,) = (row for row in client.get("/api/v1/models/types").json()["types"] if row["model_type"] == "llama")
    page = client.get("/models", params={"q": "llama"}).text
    assert all(f'href="/?model={model.replace("/", "%2F")}"' in page for model in row["catalogue"][:3])


def test_the_page_of_a_model_without_attention_is_shown(client):
    plan = "/?model=mistralai/Mamba-Codestral-7B-v0.1&method=lora&target_modules=in_proj"
    assert client.get(plan).status_code == 200
