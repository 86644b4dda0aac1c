"""The pages `/cards` and `/cards/{id}`."""

from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest


class Links(HTMLParser):
    """The addresses of a page."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "a":
            self.found.append(dict(attrs)["href"])


def test_the_list_links_to_every_gpu(client):
    page = client.get("/cards").text
    cards = client.get("/api/v1/cards").json()["cards"]
    assert {f"/cards/{card['id']}" for card in cards} <= {*Links(page).found}


def test_a_search_without_a_result_states_that(client):
    page = client.get("/cards", params={"q": "no <such> GPU"})
    assert page.status_code == 200
    assert "0 GPUs with “no &lt;such&gt; GPU”" in page.text


def test_another_name_of_a_gpu_redirects_to_its_page(client):
    response = client.get("/cards/RTX 4060", params={"method": "lora"}, follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (307, "/cards/rtx-4060?method=lora")


def test_an_unknown_gpu_is_a_page_with_the_closest_ones(client):
    page = client.get("/cards/rtx-4061")
    assert page.status_code == 404
    assert "GeForce RTX 4060" in page.text


def test_a_row_links_to_the_estimates_with_its_figures(client):
    page = client.get("/cards/rtx-4060", params={"q": "Qwen2.5-0.5B", "method": "lora"}).text
    (row,) = client.get("/api/v1/cards/rtx-4060", params={"q": "Qwen2.5-0.5B", "method": "lora"}).json()["rows"][:1]
    links = Links(page).found
    longest = next(link for link in links if link.startswith("/?model=Qwen%2FQwen2.5-0.5B"))
    answer = client.get(longest)
    assert answer.status_code == 200
    assert f'name="sequence_length" value="{row["sequence_length"]}"' in answer.text
    assert "/plan?model=Qwen%2FQwen2.5-0.5B&gpu=rtx-4060" in links


def test_a_heading_sorts_and_sorts_back(client):
    page = client.get("/cards/rtx-4060").text
    assert '<th scope="col" aria-sort="descending" class="figure">' in page
    assert "/cards/rtx-4060?sort=model&order=ascending#rows" in Links(page).found
    again = client.get("/cards/rtx-4060?sort=model&order=ascending").text
    assert "/cards/rtx-4060?sort=model#rows" in Links(again).found


def test_the_rows_beyond_the_first_are_linked(client):
    page = client.get("/cards/rtx-4060", params={"fits": "all", "limit": 100, "offset": 100}).text
    assert ">Previous rows</a> · <a" in page
    assert "/cards/rtx-4060?fits=all&offset=200#rows" in Links(page).found


def test_filters_without_a_result_state_what_to_do(client):
    page = client.get("/cards/rtx-4060", params={"q": "no-such-model"})
    assert page.status_code == 200
    assert "No model and method matches these filters." in page.text
    assert "Start over, or search with fewer words" in page.text


@pytest.mark.parametrize(("name", "text"), [("sort", "size"), ("sequence_length", "long")])
def test_a_wrong_filter_is_explained_next_to_its_field(client, name, text):
    page = client.get("/cards/rtx-4060", params={name: text})
    assert page.status_code == 422
    assert (
        f'id="{name}-error" data-live="error-{name}"><span class="visually-hidden">Error: </span>must be' in page.text
    )


def test_a_parameter_without_an_input_is_named(client):
    assert "the address also contains color" in client.get("/cards/rtx-4060?color=red").text


def test_a_model_that_is_not_trained_with_a_method_has_the_reason(client):
    page = client.get("/cards/h100-sxm5-80gb", params={"q": "mpt-7b", "fits": "all"}).text
    assert "read the number of heads from a mpt config" in page


@pytest.mark.parametrize("model", ["openai/whisper-small", "google/vit-base-patch16-224-in21k"])
def test_a_model_of_audio_or_images_has_limits_and_no_plan(client, model):
    links = map(unquote, Links(client.get("/cards/rtx-4090", params={"q": model}).text).found)
    found = [link for link in links if f"model={model}&" in link]
    assert {urlsplit(link).path for link in found} == {"/", "/limits"}
    assert client.get(found[0]).status_code == 200


def test_pages_speak_of_settings_by_their_labels(client):
    for address in ("/cards", "/cards/rtx-4090"):
        page = client.get(address).text
        assert "device.type" not in page
        assert "“Device type” cuda" in page


def test_a_page_states_why_models_have_no_rows(client, monkeypatch):
    page = client.get("/cards/rtx-4090").text
    assert "have no rows, because only a trace of the real modules gives their memory" in page
    assert "google/gemma-3n-E2B" in page
    assert "after the table was computed" not in page
    monkeypatch.setattr("app.api.answers.cards.missing", lambda: ("openai-community/gpt2",))
    page = client.get("/cards/rtx-4090").text
    assert "added after the table was computed have no rows: openai-community/gpt2." in page
    assert "only a trace" not in page


def test_jamba_has_rows(client):
    rows = client.get("/api/v1/cards/b300", params={"q": "jamba", "fits": "all"}).json()["rows"]
    assert {row["method"] for row in rows} == {"full", "lora", "qlora", "ln_tuning", "prompt"}
