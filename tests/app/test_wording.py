"""What is wrong is said in a page's words: at its input, by its label, with the value that was given."""

import json
import re
from html import unescape

import pytest

#: The pages that take a model.
PAGES = ("/", "/plan", "/inference", "/limits")


def wrong(client, path, **typed):
    """The list of what is wrong, as a person reads it."""
    response = client.get(path, params=typed)
    assert response.status_code == 422
    listed = re.search(r"<ul[^>]*>(.*?)</ul>", response.text[response.text.index("</h1>") :], re.DOTALL)
    refused = re.search(r'refusal-title".*?<ul>(.*?)</ul>', response.text, re.DOTALL) or listed
    lines = re.findall(r"<li>(.*?)</li>", refused[1], re.DOTALL)
    return [unescape(re.sub(r"<[^>]*>", "", line)) for line in lines]


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, "config.json: model_type: is required, to know the family; known families are "),
        (
            {"model_type": "llama"},
            "config.json: vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads: are re",
        ),
        (
            {"model_type": "llama", "hidden_size": 0},
            "config.json: hidden_size: must be at least 1, not 0; vocab_size, intermediate_size, ",
        ),
        (
            {"model_type": "llama", "hidden_size": "4096"},
            "config.json: hidden_size: must be a whole number above 0, not '4096'; vocab_size, intermediate_size, ",
        ),
        ({"model_type": "lama"}, "config.json: model_type: 'lama' is not a known family; known families are "),
    ],
)
def test_what_is_wrong_in_a_config_is_told_by_its_key_with_the_value(client, path, config, told):
    (line,) = wrong(client, path, config=json.dumps(config))
    assert line.startswith(told)


@pytest.mark.parametrize("path", PAGES)
def test_a_contradiction_between_keys_is_told_by_its_key(client, path):
    config = client.get("/api/v1/models/TinyLlama/TinyLlama-1.1B-Chat-v1.0").json()["config"]
    (line,) = wrong(client, path, config=json.dumps({**config, "hidden_size": 2049}))
    assert line == "config.json: hidden_size: 2,049 is not divisible by the number of attention heads, 32"
    (line,) = wrong(client, path, config=json.dumps({**config, "num_key_value_heads": 3}))
    assert line.startswith("config.json: num_key_value_heads: 32 attention heads do not divide into 3 groups")


def test_the_api_says_where_and_what_as_before(client):
    body = {"model": {"config": {"model_type": "llama", "hidden_size": 0}}, "method": {"name": "full"}}
    errors = client.post("/api/v1/estimate", json=body).json()["errors"]
    assert {"loc": "model.config.hidden_size", "msg": "must be at least 1, not 0", "input": 0} in errors


def test_a_value_that_the_reason_does_not_show_is_added(client):
    config = client.get("/api/v1/models/gpt2").json()["config"]
    (line,) = wrong(client, "/", config=json.dumps({**config, "add_cross_attention": True}))
    assert re.fullmatch(r"config.json: add_cross_attention: must be false: .* \(it is true\)", line)


def test_plans_held_beside_each_other_are_told_of_in_the_same_words(client):
    query = "/difference?plan=%3Fconfig%3D%7B%22model_type%22%3A1%7D&plan=%3Fr%3D8"
    assert "config.json: model_type: 1 is not a known family" in unescape(client.get(query).text)


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize(
    ("typed", "told"),
    [
        *((typed, f"not {typed}") for typed in ("24,5", "0", "-1", "0.0000000001")),
        *((typed, f"not '{typed}'") for typed in ("24GB", "24 GiB")),
    ],
)
def test_memory_is_asked_for_in_gib(client, path, typed, told):
    (line,) = wrong(client, path, gpu="", memory_gib=typed)
    assert line == f"Memory: must be a number of GiB above 0, such as 24 or 23.5, {told}"


@pytest.mark.parametrize("typed", ["1e9", "1048577", "1e200"])
def test_memory_beyond_any_card_is_told_its_limit_in_gib(client, typed):
    assert wrong(client, "/", gpu="", memory_gib=typed) == [f"Memory: must be at most 1,048,576 GiB, not {typed}"]


def test_half_a_gib_is_taken(client):
    assert client.get("/?gpu=&memory_gib=23.5").status_code == 200


def test_what_was_typed_stands_with_what_is_admitted(client):
    assert wrong(client, "/", sequence_length="abc", micro_batch_size="0") == [
        "Micro-batch size: must be at least 1, not 0",
        "Sequence length: must be a whole number, not 'abc'",
    ]
    assert wrong(client, "/", method="magic")[0].endswith(", not 'magic'")
