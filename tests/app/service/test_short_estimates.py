"""Short estimates are answered outside the middleware that compresses, streams and limits, with the same response."""

import pytest

from app.service import direct_estimates

RUN = {"model": "gpt2", "method": {"name": "lora"}, "reserved": "rule"}
IDENTITY = {"Accept-Encoding": "identity"}


@pytest.fixture
def answered_short(monkeypatch):
    """The requests that are answered at once."""
    seen, short_text = [], direct_estimates._short_text

    def observed(request):
        text = short_text(request)
        seen.append(text is not None)
        return text

    monkeypatch.setattr(direct_estimates, "_short_text", observed)
    return seen


def without_short(client, body, monkeypatch):
    """The response of the middleware inside."""
    with monkeypatch.context() as patch:
        patch.setattr(direct_estimates, "_short_text", lambda _: None)
        return client.post("/api/v1/estimate", json=body, headers=IDENTITY)


@pytest.mark.parametrize(
    ("change", "short"),
    [
        ({}, [True]),
        ({"device": {"gpu": "rtx-4090"}}, [True]),
        ({"reserved": "replay"}, [False]),
        ({"device": {"count": 2, "sharding": "ddp"}}, [False]),
        ({"model": "no-such-model"}, []),
        ({"method": {"name": "lora", "target_modules": ["no_such_module"]}}, [False]),
    ],
)
def test_the_response_is_that_of_the_middleware_inside(change, short, client, answered_short, monkeypatch):
    body = {**RUN, **change}
    response = client.post("/api/v1/estimate", json=body, headers=IDENTITY)
    inner = without_short(client, body, monkeypatch)
    assert (response.status_code, response.headers.multi_items(), response.content) == (
        inner.status_code,
        inner.headers.multi_items(),
        inner.content,
    )
    assert answered_short == short


def test_an_answer_that_is_compressed_or_streamed_is_not_answered_there(client, answered_short):
    coded = client.post("/api/v1/estimate", json=RUN, headers={"Accept-Encoding": "gzip"})
    streamed = client.post("/api/v1/estimate", json=RUN, headers={**IDENTITY, "Accept": "application/x-ndjson"})
    invalid = client.post("/api/v1/estimate", content="{", headers={**IDENTITY, "Content-Type": "application/json"})
    assert coded.headers["content-encoding"] == "gzip"
    assert streamed.headers["content-type"] == "application/x-ndjson"
    assert (invalid.status_code, answered_short) == (400, [])
