"""Answers are kept by the canonical request, up to a number of bytes."""

import pytest

from app.service import direct_estimates
from app.service.answer_cache import OVERHEAD, AnswerCache

START = {"type": "http.response.start", "status": 200, "headers": []}


@pytest.fixture
def computed(monkeypatch):
    """The requests that are computed."""
    requests = []
    answer = direct_estimates.answer_text_of
    monkeypatch.setattr(direct_estimates, "answer_text_of", lambda request: requests.append(request) or answer(request))
    return requests


def test_the_same_request_in_another_order_is_answered_from_the_cache(client_of, run, computed):
    client = client_of()
    first = client.post("/api/v1/estimate", json=run)
    again = client.post("/api/v1/estimate", json=dict(reversed(run.items())))
    assert (again.content, again.headers["content-type"]) == (first.content, "application/json")
    assert len(computed) == 1
    assert client.post("/api/v1/estimate", json={**run, "method": {"name": "full"}}).content != first.content
    assert len(computed) == 2


def test_compressed_and_plain_answers_are_separate_entries(client_of, run, computed):
    client = client_of()
    plain = client.post("/api/v1/estimate", json=run, headers={"Accept-Encoding": "identity"})
    packed = client.post("/api/v1/estimate", json=run, headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == plain.content
    assert len(computed) == 2


def test_streamed_answers_are_neither_kept_nor_answered_from_the_cache(client_of, run, computed):
    client = client_of()
    client.post("/api/v1/estimate", json=run)
    for _ in range(2):
        streamed = client.post("/api/v1/estimate", json=run, headers={"Accept": "application/x-ndjson"})
        assert streamed.headers["content-type"] == "application/x-ndjson"
    assert len(computed) == 3


def test_true_and_1_are_different_requests(client_of, run):
    client = client_of()
    assert client.post("/api/v1/estimate", json={**run, "training": {"padding": True}}).status_code == 200
    assert client.post("/api/v1/estimate", json={**run, "training": {"padding": 1}}).status_code == 422


def test_without_bytes_nothing_is_kept(client_of, run, computed):
    client = client_of(cache_bytes=0)
    for _ in range(2):
        client.post("/api/v1/estimate", json=run)
    assert len(computed) == 2


def test_refusals_are_not_kept(client_of, run):
    client = client_of()
    for _ in range(2):
        assert client.post("/api/v1/estimate", json={**run, "method": {"name": "none"}}).status_code == 422
    app = client.app
    while not hasattr(app, "cache"):
        app = app.app
    assert len(app.cache) == 0


def test_the_least_recently_used_entry_is_evicted_first_and_the_bytes_are_bounded():
    cache = AnswerCache(most_bytes=3 * (OVERHEAD + 11))
    for key in "abc":
        cache.keep(key, (START, b"0123456789"))
    assert cache.found("a") is not None
    cache.keep("d", (START, b"0123456789"))
    assert [key for key in "abcd" if cache.found(key) is None] == ["b"]
    assert cache.bytes <= cache.most_bytes
    cache.keep("large", (START, bytes(cache.most_bytes)))
    assert cache.found("large") is None
    assert len(cache) == 3
