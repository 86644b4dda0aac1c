"""The search for the slowest request keeps what takes longest, and no request that is refused."""

from itertools import count

import pytest

from app import api
from calculator.common.budget import OverBudgetError
from calculator.common.errors import refusal
from validation.benchmark import worst
from validation.benchmark.worst import SEARCHES, Search, searched


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the answers of a test move."""
    now = [0.0]
    monkeypatch.setattr(worst, "process_time", lambda: now[0])
    return now


def test_the_slowest_accepted_request_is_found(clock):
    def answer(body):
        if body["a"] == 9:
            clock[0] += 100
            raise refusal("a", "refused")
        clock[0] += body["a"] * body["b"]["c"]

    axes = {"a": (1, 5, 9, 3), "b.c": (1, 4)}
    found = searched(Search(endpoint="", answer=answer, plain={"a": 1, "b": {"c": 1}}, axes=axes), limit=99, rounds=2)
    assert (found.body, found.seconds, found.over) == ({"a": 5, "b": {"c": 4}}, 20, False)


def test_a_request_over_the_limit_ends_the_search(clock):
    turns = count()

    def answer(_):
        clock[0] += 10
        if next(turns):
            raise OverBudgetError(5)

    found = searched(Search(endpoint="", answer=answer, plain={"a": 1}, axes={"a": (2, 3, 4)}), limit=5, rounds=2)
    assert (found.over, next(turns)) == (True, 2)


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.endpoint)
def test_the_fields_of_a_search_are_the_endpoints(search):
    named = {path.partition(".")[0] for path in search.axes} | search.plain.keys()
    assert named <= getattr(api, search.endpoint).EXAMPLES.request_model.model_fields.keys()
