"""Answers that are streamed to clients that accept NDJSON: progress, then the answer or the problem."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.responses import JSONResponse

from app.http.problems import problem_response
from app.http.progress import StreamingMiddleware

NDJSON = {"Accept": "application/x-ndjson"}
RUN = {"model": "gpt2", "method": {"name": "lora"}, "reserved": "rule"}


def sent(response, *, accept=b"application/x-ndjson", pauses=0, path="/plan"):
    """The messages of a response that takes some intervals."""
    messages = []

    async def app(scope, receive, send):
        assert (b"accept", b"application/json") in scope["headers"] or accept != b"application/x-ndjson"
        await asyncio.sleep(0.02 * pauses)
        await response(scope, receive, send)

    async def send(message):
        messages.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"accept", accept)]}
    with ThreadPoolExecutor(max_workers=1) as thread:  # other tests may have left an event loop in this one
        streamed = StreamingMiddleware(app, ["/plan"], interval=0.02)
        thread.submit(asyncio.run, streamed(scope, receive, send)).result()
    return messages[0]["status"], dict(messages[0]["headers"])[b"content-type"], [sent["body"] for sent in messages[1:]]


def test_lines_of_progress_precede_the_answer():
    status, kind, bodies = sent(JSONResponse({"a": 1}), pauses=4)
    lines = [json.loads(line) for line in b"".join(bodies).splitlines()]
    assert (status, kind) == (200, b"application/x-ndjson")
    assert all(line.keys() == {"seconds"} for line in lines[:-1])
    assert len(lines) > 1
    assert lines[-1] == {"seconds": lines[-1]["seconds"], "status": 200, "answer": {"a": 1}}


def test_a_late_problem_is_the_last_line():
    status, _, bodies = sent(problem_response(422, "too long"), pauses=4)
    last = json.loads(bodies[-1])
    assert (status, last["status"], last["problem"]["detail"]) == (200, 422, "too long")


def test_an_early_problem_has_its_own_status():
    status, kind, bodies = sent(problem_response(422, "too long"))
    assert (status, kind, json.loads(bodies[0])["detail"]) == (422, b"application/problem+json", "too long")


@pytest.mark.parametrize(
    "other",
    [{"accept": b"application/json"}, {"accept": b"*/*"}, {"accept": b""}, {"path": "/sweep", "accept": b"x/y"}],
)
def test_other_requests_are_answered_as_ever(other):
    assert sent(JSONResponse({}), pauses=2, **other) == (200, b"application/json", [b"{}"])


def test_the_streamed_estimate_is_the_estimate(client):
    streamed = client.post("/api/v1/estimate", json=RUN, headers=NDJSON)
    (line,) = streamed.text.splitlines()
    assert streamed.headers["content-type"] == "application/x-ndjson"
    assert streamed.headers["x-content-type-options"] == "nosniff"
    assert json.loads(line)["answer"] == client.post("/api/v1/estimate", json=RUN).json()
    refused = client.post("/api/v1/estimate", json={**RUN, "model": "no/such"}, headers=NDJSON)
    assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
