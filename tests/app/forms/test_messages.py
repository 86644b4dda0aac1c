"""Pages report problems at the field, by its label, with the value that was given."""

import json
import re
from html import unescape
from urllib.parse import parse_qsl

import pytest

from app.forms.messages import worded

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
    ("config", "message"),
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
        (
            {"model_type": "lama"},
            "config.json: model_type: 'lama' is not a known family; did you mean llama? Known families are ",
        ),
    ],
)
def test_an_error_in_a_config_is_reported_by_its_key_with_the_value(client, path, config, message):
    (line,) = wrong(client, path, config=json.dumps(config))
    assert line.startswith(message)


@pytest.mark.parametrize("path", PAGES)
def test_a_contradiction_between_keys_is_reported_by_its_key(client, path):
    config = client.get("/api/v1/models/TinyLlama/TinyLlama-1.1B-Chat-v1.0").json()["config"]
    (line,) = wrong(client, path, config=json.dumps({**config, "hidden_size": 2049}))
    assert line == "config.json: hidden_size: 2,049 is not divisible by the number of attention heads, 32"
    (line,) = wrong(client, path, config=json.dumps({**config, "num_key_value_heads": 3}))
    assert line.startswith("config.json: num_key_value_heads: 32 attention heads do not divide into 3 groups")


def test_the_api_still_reports_paths_and_messages(client):
    body = {"model": {"config": {"model_type": "llama", "hidden_size": 0}}, "method": {"name": "full"}}
    errors = client.post("/api/v1/estimate", json=body).json()["errors"]
    assert {"loc": "model.config.hidden_size", "msg": "must be at least 1, not 0", "input": 0} in errors


def test_a_value_that_the_reason_does_not_show_is_added(client):
    config = client.get("/api/v1/models/gpt2").json()["config"]
    (line,) = wrong(client, "/", config=json.dumps({**config, "add_cross_attention": True}))
    assert re.fullmatch(r"config.json: add_cross_attention: must be false: .* \(it is true\)", line)


def test_compared_plans_are_described_as_on_their_own_pages(client):
    query = "/difference?plan=%3Fconfig%3D%7B%22model_type%22%3A1%7D&plan=%3Fr%3D8"
    assert "config.json: model_type: 1 is not a known family" in unescape(client.get(query).text)


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize(
    ("typed", "message"),
    [
        *((typed, f"not {typed}") for typed in ("24,5", "0", "-1", "0.0000000001")),
        *((typed, f"not '{typed}'") for typed in ("24GB", "24 GiB")),
    ],
)
def test_memory_is_entered_in_gib(client, path, typed, message):
    (line,) = wrong(client, path, gpu="", memory_gib=typed)
    assert line == f"Memory: must be a number of GiB above 0, such as 24 or 23.5, {message}"


@pytest.mark.parametrize("typed", ["1e9", "1048577", "1e200"])
def test_too_much_memory_is_refused_with_the_limit_in_gib(client, typed):
    assert wrong(client, "/", gpu="", memory_gib=typed) == [f"Memory: must be at most 1,048,576 GiB, not {typed}"]


def test_half_a_gib_is_accepted(client):
    assert client.get("/?gpu=&memory_gib=23.5").status_code == 200


def test_the_typed_text_is_shown_with_the_allowed_values(client):
    assert wrong(client, "/", sequence_length="abc", micro_batch_size="0") == [
        "Micro-batch size: must be at least 1, not 0",
        "Sequence length: must be a whole number, not 'abc'",
    ]
    assert wrong(client, "/", method="magic")[0].endswith(", not 'magic'")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "/?model=8000000000",
            "Model: a bare parameter count is for full fine-tuning with “Accounting”, under More settings, set to",
        ),
        (
            "/?model=blom",
            "Model: 'blom' is not in the catalogue; did you mean bigscience/bloom, bigscience/bloom-3b",
        ),
        ("/?model=", "Model: give a model's id or its hub URL, or paste its config.json into the form"),
        (
            "/?model=8000000000&accounting=textbook",
            "Model: QLoRA needs a model's shapes: give an id or a config; a bare",
        ),
        (
            "/?padding=true&attention=flash_attention_2",
            "Attention: with padding, its memory depends on the number of padding ",
        ),
        ("/?gpu=foo", "GPU: 'foo' is not in the catalogue; give its size under “Memory”"),
        ("/?max_grad_norm=x", "Gradient clipping: must be a number, or empty, not 'x'"),
        ("/limits?gpu=", "GPU: a limit needs a GPU: give “GPU” or “Memory”"),
        (
            "/limits?accounting=textbook",
            "Accounting: textbook accounting counts no activations, so every “Sequence len",
        ),
        ("/inference?merged=true&method=prefix", "Merged: Prefix tuning can't be merged into the weights: untick it"),
        ("/plan?gpu=", "GPU: a plan needs a GPU: name one, or give “Memory”"),
        ("/plan?must_merge=true&frozen_base=true", "Must merge: merging changes the weights that “Imm"),
        (
            "/plan?must_merge=true&switch_per_request=true&tasks=3",
            "Must merge: merged weights serve one task, and 3 switch per request: keep the adapters unmerged",
        ),
        (
            "/plan?switch_per_request=true",
            "Tasks to serve: with one task, there is nothing to switch: set the number of tasks",
        ),
        ("/plan?gpus=1,2,3,4,5,6,7,8", "Other GPUs: name at most 8 GPUs, including the one above, not 9"),
        ("/plan?model=a,b,c,d,e,f,g,h,i", "Model: name at most 8 models, not 9"),
        (
            "/plan?model=gpt2,distilgpt2,gpt2-xl,gpt2-large&gpus=l4,t4,l40s",
            "Other GPUs: 4 models on 4 devices are more",
        ),
        ("/plan?priorities=x", "What matters first: must be a list from 'quality', 'speed', 'memory', 'cost', not 'x'"),
    ],
)
def test_a_page_names_fields_by_their_labels(client, address, message):
    line = wrong(
        client, address.partition("?")[0], **dict(parse_qsl(address.partition("?")[2], keep_blank_values=True))
    )
    assert line[0].startswith(message)
    assert not re.search(r"[a-z]_[a-z]|device\.|\{|\bfalse\b", line[0].replace("flash_attention_2", ""))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "/plan?must_merge=true&model=meta-llama/Llama-3.1-70B&gpu=t4&reserved=rule",
            "can't be merged, and “Must merge” is set",
        ),
        ("/plan?max_trainable_fraction=0.000000001&reserved=rule", "Without “Largest trained share”, these fit"),
        ("/", "No “Sequence length” is set"),
    ],
)
def test_reasons_next_to_an_answer_use_labels_too(client, address, message):
    assert message in unescape(client.get(address).text)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("training.attention is lone", "“Attention” is lone"),
        ("attention and padding are words", "attention and padding are words"),
        ("padding false, or must_merge true", "“Padding” off, or “Must merge” on"),
        ("'must_merge' is somebody's own use_dora", "'must_merge' is somebody's own “DoRA”"),
        ("hidden_size of my_use_dora", "hidden_size of my_use_dora"),
        ("prompt needs", "prompt needs"),
        ("full needs a model", "Full fine-tuning needs a model"),
    ],
)
def test_settings_are_found_by_their_names(message, expected):
    assert worded(message) == expected


def test_the_api_keeps_its_words(client):
    body = {"model": "gpt2", "method": {"name": "full"}, "solve_for": "sequence_length"}
    errors = client.post("/api/v1/limits", json=body).json()["errors"]
    assert errors == [
        {"loc": "device", "msg": "a limit needs a GPU: give device.gpu or device.memory_bytes", "input": None}
    ]


@pytest.mark.parametrize("path", PAGES)
def test_a_gpu_with_both_a_name_and_a_size_is_the_only_error(client, path):
    assert wrong(client, path, gpu="rtx-4090", memory_gib="24") == [
        "Memory: give either it or “GPU” (GeForce RTX 4090), not both"
    ]


@pytest.mark.parametrize("path", PAGES)
def test_an_unknown_gpu_is_the_only_error(client, path):
    (line,) = wrong(client, path, gpu="foo")
    assert line.startswith("GPU: 'foo' is not in the catalogue")


@pytest.mark.parametrize(("method", "virtual"), [("qlora", False), ("prompt", True)])
def test_if_every_method_is_refused_the_page_shows_the_problems_of_the_selected_one(client, method, virtual):
    (line,) = wrong(client, "/", model="gpt2", sequence_length="4096", method=method)
    assert line.startswith("Sequence length: 4,")
    assert ("virtual tokens" in line) == virtual


def test_needs_that_no_method_meets_are_reported_at_their_inputs(client):
    assert wrong(client, "/plan", model="gpt2", sequence_length="4096") == [
        "Sequence length: 4,096 positions are needed; the model has 1,024 only"
    ]


def test_a_warning_names_settings_by_their_labels(client):
    text = unescape(client.get("/?model=gpt2&method=lora&trainer=trl-grpo&use_vllm=true&micro_batch_size=8").text)
    assert "GRPOConfig sets bf16=True by default: set “Autocast” to bfloat16" in text
    assert "training.autocast" not in text[text.index("Note:") : text.index("What uses the memory")]
