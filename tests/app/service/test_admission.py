"""More requests than a process takes get 503 and the time to try again."""

import asyncio

from app.service.admission import AdmissionMiddleware
from app.service.observation import ENDPOINT
from tests.serving import run

SCOPE = {"type": "http", "method": "POST", "path": "/api/v1/plan", "headers": [], ENDPOINT: "/api/v1/plan"}


async def _answers(requests, *, fail=False):
    """The statuses of requests of which each waits for all others to arrive."""
    everybody = asyncio.Event()

    async def app(_scope, _receive, send):
        await everybody.wait()
        if fail:
            raise ValueError
        await send({"type": "http.response.start", "status": 200, "headers": []})

    admission = AdmissionMiddleware(app, most=2, retry_after=5)

    async def one(scope):
        sent = []

        async def send(message):
            sent.append(message)

        try:
            await admission(scope, None, send)
        except ValueError:
            return 500, {}
        return sent[0]["status"], dict(sent[0]["headers"])

    waiting = [asyncio.ensure_future(one({**SCOPE, **settings})) for settings in requests]
    await asyncio.sleep(0)
    everybody.set()
    return [await task for task in waiting], admission.present


def test_the_third_of_two_is_refused_and_the_health_check_is_not():
    answers, present = run(_answers([{}, {}, {}, {ENDPOINT: "/healthz"}]))
    assert [status for status, _ in answers] == [200, 200, 503, 200]
    assert answers[2][1][b"retry-after"] == b"5"
    assert present == 0


def test_a_request_that_fails_leaves_its_place():
    answers, present = run(_answers([{}, {}], fail=True))
    assert [status for status, _ in answers] == [500, 500]
    assert present == 0


def test_the_refusal_is_a_problem_document(client_of, run):
    response = client_of(most_at_once=0).post("/api/v1/estimate", json=run)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "try again in a second" in response.json()["detail"]
