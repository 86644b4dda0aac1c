"""Which engine answers a request, and what is refused with which way out."""

import pytest

from app.engines import engine, installed
from app.engines.process import AbandonedError
from app.engines.tracer import BusyError

UNKNOWN = {
    "model": {"config": {"model_type": "kimi_linear"}},
    "method": {"name": "lora", "target_modules": "all-linear"},
}
KNOWN = {
    "model": {
        "config": {
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": 100,
        }
    },
    "method": {"name": "lora"},
    "reserved": "rule",
}


@pytest.fixture
def no_extra(monkeypatch):
    monkeypatch.setattr(installed, "PACKAGES", ("validation", "no_such_torch"))


class Stub:
    """A tracer whose traces end with an error."""

    def __init__(self, error):
        self.error = error

    def trace(self, *_):
        raise self.error


def refused(client, body, status=422):
    answer = client.post("/api/v1/estimate", json=body)
    assert answer.status_code == status
    return answer.json()


def test_a_modeled_model_is_answered_by_the_calculator(client):
    answer = client.post("/api/v1/estimate", json=KNOWN).json()
    assert (answer["engine"], answer["grade"], answer["trace"]) == ("calculator", "modelled", None)


def test_rules_of_thumb_have_no_grade(client):
    body = {"model": {"parameters": 7}, "method": {"name": "full"}, "accounting": "textbook"}
    assert client.post("/api/v1/estimate", json=body).json()["grade"] is None


@pytest.mark.usefixtures("no_extra")
def test_without_the_extra_the_refusal_states_how_to_get_it(client):
    assert "pip install '.[validation]'" in refused(client, UNKNOWN)["detail"]
    answer = refused(client, {**UNKNOWN, "engine": "traced"})
    assert "a trace needs no_such_torch, not installed here: pip install '.[validation]'" in answer["detail"]


@pytest.mark.usefixtures("no_extra")
def test_without_the_extra_the_page_states_how_to_get_it(client):
    page = client.get("/", params={"config": '{"model_type": "kimi_linear"}'})
    assert page.status_code == 422
    assert "pip install &#39;.[validation]&#39;" in page.text


def test_engine_calculator_refuses_the_model_and_names_engine_traced(client):
    answer = refused(client, {**UNKNOWN, "engine": "calculator"})
    assert "is not a known family" in answer["detail"]
    assert "set engine to auto or traced" in answer["detail"]


def test_a_type_that_transformers_does_not_know_is_refused_without_a_trace(client):
    detail = refused(client, {**UNKNOWN, "model": {"config": {"model_type": "lama"}}})["detail"]
    assert "'lama' is not a known family" in detail
    assert "trace" not in detail


@pytest.mark.parametrize(
    ("changes", "loc"),
    [
        ({"training": {"trainer": "trl-sft"}}, "training.trainer"),
        ({"training": {"packing": True}}, "training.packing"),
        ({"training": {"sequence_lengths": [[64, 2]]}}, "training.sequence_lengths"),
        ({"training": {"torch_empty_cache_steps": 2}}, "training.torch_empty_cache_steps"),
        ({"device": {"count": 2, "sharding": "ddp"}}, "device.sharding"),
        ({"stack": {"transformers": "5.13"}}, "stack"),
        ({"accounting": "textbook"}, "accounting"),
        ({"model": {"parameters": 7}}, "model.parameters"),
        ({"device": {"gpu": "tesla-t4"}, "training": {"attention": "flash_attention_2"}}, "training.attention"),
    ],
)
def test_a_trace_that_cannot_run_is_refused_before_it_starts(client, changes, loc):
    answer = refused(client, {**UNKNOWN, "engine": "traced", **changes})
    assert loc in [error["loc"] for error in answer["errors"]]


@pytest.mark.parametrize("path", ["compare", "limits", "export"])
def test_other_endpoints_refuse_a_trace(client, path):
    extra = {"limits": {"solve_for": "r", "device": {"gpu": "rtx-4090"}}, "export": {"format": "peft"}}.get(path, {})
    body = {**KNOWN, "engine": "traced", **extra}
    if path == "compare":
        body["methods"] = [body.pop("method")]
    answer = client.post(f"/api/v1/{path}", json=body)
    assert answer.status_code == 422
    assert "a trace answers one estimate at a time" in answer.json()["detail"]


def test_too_many_traces_are_answered_with_503_and_when_to_try_again(client, monkeypatch):
    monkeypatch.setattr(engine, "tracer", lambda: Stub(BusyError()))
    answer = client.post("/api/v1/estimate", json={**UNKNOWN, "engine": "traced"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")
    assert answer.json()["type"] == "/docs#problem-busy"


def test_a_trace_whose_client_disconnects_ends_with_503(client, monkeypatch):
    monkeypatch.setattr(engine, "tracer", lambda: Stub(AbandonedError()))
    assert "the trace was ended" in refused(client, {**UNKNOWN, "engine": "traced"}, 503)["detail"]
