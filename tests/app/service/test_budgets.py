"""An answer that takes more CPU time than the limit ends with a problem that names it; sweeps have none."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from itertools import count

import pytest

from app.application import application
from calculator.common import budget
from calculator.common.budget import OverBudgetError, check_budget, current_budget, limited
from calculator.comparison.methods import compare, parse_comparison

LORA = {"method": {"name": "lora"}}
LENGTHS = [[64, 1], [128, 1]]
STEPS = {"gradient_accumulation_steps": 16}


@pytest.fixture
def slow_clock(monkeypatch):
    """A clock that is seven seconds later at every look."""
    seconds = count(step=7)
    monkeypatch.setattr(budget, "thread_time", lambda: next(seconds))


@pytest.fixture
def client_with(monkeypatch):
    """A client of an application with other settings."""
    from fastapi.testclient import TestClient

    def client(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return TestClient(application(), raise_server_exceptions=False)

    return client


@pytest.mark.usefixtures("slow_clock")
def test_a_budget_is_counted_from_the_first_check_and_only_in_its_context():
    check_budget()
    with limited(20):
        for _ in range(3):
            check_budget()
        with pytest.raises(OverBudgetError, match="more than 20 seconds of CPU time"):
            check_budget()
    check_budget()


@pytest.mark.usefixtures("slow_clock")
@pytest.mark.parametrize("reserved", ["rule", "replay"])
@pytest.mark.parametrize("path", ["/api/v1/compare", "/api/v1/limits", "/api/v1/plan"])
def test_a_long_search_is_refused_with_the_limit(path, reserved):
    from fastapi.testclient import TestClient

    body = {"model": "gpt2", "device": {"gpu": "rtx-4090"}, "reserved": reserved}
    if path == "/api/v1/limits":
        body |= {"method": {"name": "lora"}, "solve_for": "r"}
    response = TestClient(application(), raise_server_exceptions=False).post(path, json=body)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert "the limit of this server: set reserved to rule" in response.json()["detail"]


@pytest.mark.usefixtures("slow_clock")
def test_an_estimate_by_replay_and_a_page_are_refused_with_the_limit(client):
    body = {"model": "gpt2", "method": {"name": "lora"}, "device": {"memory_bytes": 10**9}}
    histories = {"training": {"sequence_lengths": [[64, 1], [128, 1]]}}
    response = client.post("/api/v1/estimate", json={**body, **histories})
    assert (response.status_code, "20 seconds" in response.json()["detail"]) == (422, True)
    page = client.get("/?model=gpt2")
    assert (page.status_code, "20 seconds of CPU time" in page.text) == (422, True)


@pytest.mark.usefixtures("slow_clock")
def test_a_streamed_answer_may_take_longer_which_the_refusal_of_another_names(client):
    body = {
        "model": "gpt2",
        "method": {"name": "lora"},
        "device": {"gpu": "rtx-4090"},
        "solve_for": "r",
        "reserved": "rule",
    }
    refused = client.post("/api/v1/limits", json=body).json()["detail"]
    assert "more than 20 seconds" in refused
    assert refused.endswith("or accept application/x-ndjson: a streamed answer may take 60 seconds")
    streamed = client.post("/api/v1/limits", json=body, headers={"Accept": "application/x-ndjson"})
    assert json.loads(streamed.text.splitlines()[-1])["status"] == 200


@pytest.mark.usefixtures("slow_clock")
def test_an_answer_that_could_be_streamed_has_its_own_limit(client_with):
    body = {
        "model": "gpt2",
        "method": {"name": "lora"},
        "device": {"gpu": "rtx-4090"},
        "solve_for": "r",
        "reserved": "rule",
    }
    client = client_with(MOST_PLAIN_SECONDS="2", MOST_SECONDS="600")
    refused = client.post("/api/v1/limits", json=body)
    assert (refused.status_code, "more than 2 seconds" in refused.json()["detail"]) == (422, True)
    streamed = client.post("/api/v1/limits", json=body, headers={"Accept": "application/x-ndjson"})
    assert json.loads(streamed.text.splitlines()[-1])["status"] == 200
    assert client.get("/limits?model=gpt2&gpu=rtx-4090&reserved=rule").status_code == 200


def test_a_limit_met_while_an_answer_is_filled_is_no_server_error(client_with, monkeypatch, request):
    """The verdicts of a comparison's replays are computed when the answer reads them."""
    rows = compare(parse_comparison({"model": "gpt2", "device": {"gpu": "rtx-4090"}, "methods": [{"name": "lora"}]}))
    monkeypatch.setattr("app.api.compare.compare", lambda _: rows)
    request.getfixturevalue("slow_clock")
    response = client_with().post("/api/v1/compare", json={"model": "gpt2", "device": {"gpu": "rtx-4090"}})
    assert (response.status_code, "more than 20 seconds" in response.json()["detail"]) == (422, True)


@pytest.mark.usefixtures("slow_clock")
def test_an_answer_that_is_sent_whole_has_the_limit_of_whole_answers(client_with):
    client = client_with(MOST_PLAIN_SECONDS="2", MOST_SECONDS="600")
    for path in ("/limits.json", "/plan.json"):
        refused = client.get(f"{path}?model=gpt2&gpu=rtx-4060&reserved=rule")
        assert (refused.status_code, "more than 2 seconds" in refused.json()["detail"]) == (422, True)
        assert "request it of the API and accept application/x-ndjson" in refused.json()["detail"]


@pytest.mark.usefixtures("slow_clock")
def test_the_time_of_several_threads_is_added_up():
    with limited(20):
        context = copy_context()
        with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
            for thread in (first, second, first):
                thread.submit(context.run, check_budget).result()
            with pytest.raises(OverBudgetError):
                second.submit(context.run, check_budget).result()


def test_a_stopped_answer_ends_at_its_next_check():
    with limited(20):
        check_budget()
        current_budget().stop()
        with pytest.raises(OverBudgetError):
            check_budget()


@pytest.mark.usefixtures("slow_clock")
@pytest.mark.parametrize(
    ("path", "body", "fields"),
    [
        ("estimate", {**LORA, "training": {"sequence_lengths": LENGTHS}}, ["reserved", "training.sequence_lengths"]),
        ("compare", {"methods": [{"name": "lora"}, {"name": "full"}]}, ["reserved", "methods"]),
        (
            "limits",
            {**LORA, "solve_for": "r", "reserved": "rule", "training": STEPS},
            [f"training.{next(iter(STEPS))}"],
        ),
        ("plan", {"reserved": "rule"}, []),
    ],
)
def test_an_answer_that_takes_too_long_names_the_fields_that_shorten_it(client, path, body, fields):
    problem = client.post(f"/api/v1/{path}", json={"model": "gpt2", "device": {"memory_bytes": 10**9}, **body}).json()
    assert "the limit of this server: set reserved to rule" in problem["detail"]
    assert [error["loc"] for error in problem.get("errors", [])] == fields


@pytest.mark.usefixtures("slow_clock")
def test_a_page_that_takes_too_long_names_the_field_that_shortens_it(client):
    page = client.get("/limits?model=gpt2&gpu=rtx-4090")
    assert page.status_code == 422
    assert "Reserved memory: the answer takes more than 20 seconds of CPU time: set it to rule" in page.text


@pytest.mark.usefixtures("slow_clock")
def test_a_sweep_has_no_limit(client):
    body = {"request": {"model": "gpt2", "method": {"name": "lora"}}, "grid": {"method.r": [1, 2, 4, 8, 16, 32]}}
    rows = client.post("/api/v1/sweep", json=body).text.splitlines()
    assert [json.loads(row)["problems"] for row in rows] == [[]] * 6
