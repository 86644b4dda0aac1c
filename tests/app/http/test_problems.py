"""Every kind of invalid input gets a 4xx problem that names the field; nothing gets a 500."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.http.bodies import FILE_PATHS, LARGEST_BODY, LARGEST_FILE
from app.http.problems import MOST_ERRORS, shortened

PATHS = ["/api/v1/estimate", "/api/v1/compare", "/api/v1/export", "/api/v1/import"]
JSON = {"content-type": "application/json"}


def post(client, path, raw, headers=JSON):
    return client.post(path, content=raw, headers=headers)


def problem_of(response, status):
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert {"type", "title", "status", "detail"} <= set(document)
    assert document["status"] == status
    return document


def locs(response):
    return [error["loc"] for error in problem_of(response, 422)["errors"]]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"nope",
        b"\xff\xfe",
        b'"\\ud800"',
        b'{"model": NaN}',
        b'{"model": -Infinity}',
        b'{"model": 1e999}',
        b'{"model": "a", "model": "b"}',
        b"[" * 100_000,
        b"[" * 200 + b"]" * 200,
        b'{"a":' * 70 + b"1" + b"}" * 70,
        b"9" * 5000,
    ],
    ids=lambda raw: repr(raw[:24]),
)
def test_a_body_that_is_not_strict_json_is_a_400(client, path, raw):
    assert problem_of(post(client, path, raw), 400)["type"] == "/docs#problem-undecodable-body"


@pytest.mark.parametrize("path", PATHS)
def test_a_large_body_is_a_413(client, path):
    for size in ((LARGEST_FILE if path in FILE_PATHS else LARGEST_BODY) + 1, 10 << 20):
        problem_of(post(client, path, b" " * size), 413)


def test_a_body_of_just_the_limit_is_read(client):
    problem_of(post(client, PATHS[0], b" " * LARGEST_BODY), 400)


def test_a_notebook_with_outputs_is_larger_than_other_bodies(client):
    code = '{"cells": [{"cell_type": "code", "source": ["model = AutoModelForCausalLM.from_pretrained(\\"gpt2\\")"]}], '
    content = f'{code}"outputs": "{"x" * LARGEST_BODY}"}}'
    answer = post(client, "/api/v1/import", json.dumps({"content": content}).encode())
    assert (answer.status_code, answer.json()["request"]["model"]) == (200, "openai-community/gpt2")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", None])
def test_another_media_type_is_a_415(client, kind):
    problem_of(post(client, PATHS[0], b"{}", {} if kind is None else {"content-type": kind}), 415)


def test_a_charset_after_the_media_type_is_accepted(client, plan):
    headers = {"content-type": "application/json; charset=utf-8"}
    assert post(client, PATHS[0], json.dumps(plan).encode(), headers).status_code == 200


@pytest.mark.parametrize("body", [None, 1, "text", [], True])
def test_a_body_that_is_no_object_is_refused(client, body):
    for path in PATHS:
        assert locs(post(client, path, json.dumps(body))) == [""]


def test_an_empty_object_names_what_is_missing(client):
    assert set(locs(client.post(PATHS[0], json={}))) == {"model", "method"}
    assert set(locs(client.post(PATHS[1], json={}))) == {"model"}


@pytest.mark.parametrize(
    ("change", "loc"),
    [
        ({"model": ""}, "model"),
        ({"model": 7}, "model"),
        ({"model": "nobody/no-such-model"}, "model"),
        ({"model": {"config": 1}}, "model.config"),
        ({"model": {"config": {"model_type": "no-such-family"}}}, "model.config.model_type"),
        ({"model": {"parameters": -1}}, "model.parameters"),
        ({"method": {}}, "method.name"),
        ({"method": "lora"}, "method"),
        ({"method": {"name": "magic"}}, "method.name"),
        ({"method": {"name": "lora", "r": 0}}, "method.r"),
        ({"method": {"name": "lora", "r": -3}}, "method.r"),
        ({"method": {"name": "lora", "r": 8.5}}, "method.r"),
        ({"method": {"name": "lora", "r": "8"}}, "method.r"),
        ({"method": {"name": "lora", "r": True}}, "method.r"),
        ({"method": {"name": "lora", "r": 10**400}}, "method.r"),
        ({"method": {"name": "lora", "lora_alpha": 10**400}}, "method.lora_alpha"),
        ({"method": {"name": "lora", "target_modules": []}}, "method.target_modules"),
        ({"method": {"name": "lora", "use_dora": 0}}, "method.use_dora"),
        ({"method": {"name": "full", "r": 8}}, "method.r"),
        ({"training": []}, "training"),
        ({"training": None}, "training"),
        ({"training": {"sequence_length": 0}}, "training.sequence_length"),
        ({"training": {"sequence_length": 10**30}}, "training.sequence_length"),
        ({"training": {"padding": "yes"}}, "training.padding"),
        ({"training": {"dtype": "int3"}}, "training.dtype"),
        ({"training": {"seq_len": 5}}, "training.seq_len"),
        ({"device": {"gpu": "no-such-card"}}, "device.gpu"),
        ({"device": {"gpu": "rtx-4090", "memory_bytes": 1 << 30}}, "device.memory_bytes"),
        ({"device": {"memory_bytes": 0}}, "device.memory_bytes"),
        ({"reserved": "guess"}, "reserved"),
        ({"accounting": None}, "accounting"),
        ({"extra": 1}, "extra"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(client, plan, change, loc):
    assert loc in locs(client.post(PATHS[0], json={**plan, **change}))


@pytest.mark.parametrize(
    ("change", "loc"),
    [
        ({"method": {"name": "lora"}}, "method"),
        ({"methods": []}, "methods"),
        ({"methods": "lora"}, "methods"),
        ({"methods": [{"name": "lora"}] * 65}, "methods"),
        ({"methods": [{"name": "lora"}, {"name": "lora", "r": 0}]}, "methods.1.r"),
        ({"methods": [{"name": "magic"}]}, "methods.0.name"),
        ({"model": "nobody/no-such-model"}, "model"),
        ({"training": {"sequence_length": 0}}, "training.sequence_length"),
    ],
    ids=str,
)
def test_a_wrong_field_of_a_comparison_is_named(client, plan, change, loc):
    del plan["method"]
    assert loc in locs(client.post(PATHS[1], json={**plan, **change}))


def test_all_problems_are_listed_together(client, plan):
    wrong = {"method": {"name": "lora", "r": 0}, "training": {"sequence_length": 0, "nope": 1}, "extra": 1}
    found = locs(client.post(PATHS[0], json={**plan, **wrong}))
    assert sorted(found) == ["extra", "method.r", "training.nope", "training.sequence_length"]


def test_a_model_that_nearly_exists_is_suggested(client, plan):
    document = problem_of(client.post(PATHS[0], json={**plan, "model": "llama-3.1-8"}), 422)
    assert "meta-llama/Llama-3.1-8B" in document["errors"][0]["msg"]


def test_thousands_of_problems_are_cut_to_a_readable_few(client, plan):
    body = {**plan, **{f"field {i}": "x" * 500 for i in range(1000)}}
    document = problem_of(client.post(PATHS[0], json=body), 422)
    assert len(document["errors"]) == MOST_ERRORS
    assert max(len(str(error["input"])) for error in document["errors"]) < 250
    assert "999 more" in document["detail"]


def test_a_default_of_a_family_in_an_error_is_shown_as_an_object(client, plan):
    text = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    config = {"model_type": "qwen2_5_vl", "text_config": {**text, "intermediate_size": 512, "vocab_size": 1000}}
    problem = problem_of(client.post("/api/v1/estimate", json={**plan, "model": {"config": config}}), 422)
    (error,) = problem["errors"]
    assert error["loc"] == "model.config.text_config.rope_parameters"
    assert isinstance(error["input"], dict)


def test_an_input_is_shown_short():
    assert shortened("x" * 1000) == "x" * 200 + "…"
    assert shortened([[[[1]]]]) == [[["…"]]]
    assert shortened(list(range(99))) == list(range(10))
    assert shortened(10**400) == "a whole number of about 400 digits"
    assert shortened(float("inf")) == "inf"
    assert shortened({"a": True, "b": None, "c": 1.5}) == {"a": True, "b": None, "c": 1.5}


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/api/", "/api/v1/estimate/", "/api/v1/models/no/such", "/x.json"])
def test_an_unknown_path_is_a_404_problem_to_programs(client, path):
    problem_of(client.get(path), 404)


@pytest.mark.parametrize("path", ["/nothing", "/static/nothing.css", "/docs/"])
def test_an_unknown_path_is_a_404_page_to_people(client, path):
    response = client.get(path)
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/api/v1/estimate", "POST"),
        ("DELETE", "/api/v1/compare", "POST"),
        ("POST", "/api/v1/models", "GET, HEAD"),
        ("PUT", "/api/v1/models/gpt2", "GET, HEAD"),
        ("PATCH", "/", "GET, HEAD, POST"),
        ("POST", "/static/style.css", "GET, HEAD"),
        ("OPTIONS", "/healthz", "GET, HEAD"),
    ],
)
def test_another_method_is_a_405_that_lists_the_allowed(client, method, path, allow):
    response = client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allow)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["lora", "qlora", "prefix", "all-linear", "gpt2", "rtx-4090", "float32", "zero3", "textbook"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
METHODS = st.fixed_dictionaries(
    {"name": st.sampled_from(["full", "lora", "qlora", "adapter", "prefix", "prompt", "magic"])},
    optional={
        name: VALUES | st.integers(1, 300)
        for name in ("r", "lora_alpha", "target_modules", "bias", "blocksize", "bottleneck_size", "num_virtual_tokens")
    },
)
TRAINING = st.fixed_dictionaries(
    {},
    optional={
        "micro_batch_size": VALUES | st.integers(1, 10**5),
        "sequence_length": VALUES | st.integers(2, 10**7),
        "dtype": st.sampled_from(["bfloat16", "float16", "float32"]) | VALUES,
        "autocast": st.sampled_from([None, "bfloat16", "float16"]),
        "gradient_checkpointing": st.booleans(),
        "gradient_accumulation_steps": st.integers(1, 4),
        "attention": st.sampled_from(["sdpa", "eager", "flash_attention_2"]),
        "padding": st.booleans(),
        "optimizer": st.sampled_from(["adamw_torch", "sgd", "adafactor", "paged_adamw_8bit", "lion_8bit"]),
        "max_grad_norm": st.none() | st.floats(0, 10),
    },
)
DEVICE = st.fixed_dictionaries(
    {},
    optional={
        "gpu": st.sampled_from(["rtx-4090", "h100-sxm5-80gb", "4090"]) | VALUES,
        "memory_bytes": VALUES | st.integers(1, 1 << 40),
        "count": st.integers(1, 9),
        "sharding": st.sampled_from(["none", "ddp", "zero1", "zero2", "zero3", "fsdp"]),
    },
)
MODELS = st.sampled_from(["gpt2", "meta-llama/Llama-3.1-8B", "mistralai/Mixtral-8x7B-v0.1"]) | VALUES
BODIES = st.fixed_dictionaries(
    {"model": MODELS, "method": METHODS | VALUES},
    optional={
        "training": TRAINING | VALUES,
        "device": DEVICE | VALUES,
        "reserved": st.sampled_from(["rule", "replay"]) | VALUES,
        "accounting": st.sampled_from(["exact", "textbook"]) | VALUES,
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=BODIES | VALUES)
def test_no_body_causes_a_server_error(client, body):
    response = post(client, "/api/v1/estimate", json.dumps(body))
    assert response.status_code in (200, 422)
    if response.status_code == 422:
        assert all(error["msg"] for error in problem_of(response, 422)["errors"])


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=BODIES, methods=st.lists(METHODS, max_size=3) | VALUES)
def test_no_comparison_causes_a_server_error(client, body, methods):
    del body["method"]
    assert client.post("/api/v1/compare", json={**body, "methods": methods}).status_code in (200, 422)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(raw=st.binary(max_size=60))
def test_no_bytes_cause_a_server_error(client, raw):
    assert post(client, "/api/v1/estimate", raw).status_code in (400, 422)


CONFIG_VALUES = st.none() | st.booleans() | st.integers(-4, 10**6) | st.floats(-1e9, 1e9) | st.text(max_size=4)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(["gpt2", "meta-llama/Llama-3.1-8B", "google/gemma-2-9b", "bigscience/bloom-560m"]),
    changes=st.data(),
)
def test_no_broken_config_causes_a_server_error(client, name, changes):
    config = client.get(f"/api/v1/models/{name}").json()["config"]
    for key in changes.draw(st.lists(st.sampled_from(sorted(config)), max_size=3)):
        config[key] = changes.draw(CONFIG_VALUES)
    response = client.post("/api/v1/estimate", json={"model": {"config": config}, "method": {"name": "lora"}})
    assert response.status_code in (200, 422)
    if response.status_code == 422:
        assert response.json()["errors"]


def test_a_query_that_is_too_long_is_an_invalid_request(client):
    response = client.get("/api/v1/models/types", params={"q": "x" * 101})
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
    (problem,) = response.json()["errors"]
    assert (problem["loc"], problem["input"]) == ("q", "x" * 101)
    assert "at most 100 characters" in problem["msg"]
