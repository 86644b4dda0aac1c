"""Hostile texts and requests are answered or refused: no parser and no endpoint meets a fault."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.http.problems import HTTPProblem
from calculator.common.errors import PlanError
from tests.hostile.generated import parsed_text, request
from tests.hostile.mixed import mixed_request
from tests.hostile.parsers import PARSERS, corpus
from tests.hostile.sent import status_of

#: How many requests are sent here; `make hostile` sends more.
REQUESTS, MIXED = 300, 150


@pytest.mark.parametrize("parser", PARSERS)
def test_a_parser_has_a_text_that_it_reads(parser):
    PARSERS[parser](corpus()[parser][0])


@pytest.mark.parametrize("parser", PARSERS)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(chance=st.randoms(use_true_random=False))
def test_a_parser_reads_a_mutated_text_or_refuses_it(parser, chance):
    with suppress(PlanError, HTTPProblem):
        PARSERS[parser](parsed_text(chance, parser))


async def statuses(app, requests):
    return [(await status_of(app, request), request) for request in requests]


def sent(app, drawn, count):
    """Return the statuses of requests. They are sent in a thread: other tests may have left an event loop in this."""
    chance = Random(24)
    requests = [drawn(chance) for _ in range(count)]
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, statuses(app, requests)).result()


def test_hostile_requests_cause_no_server_error(app):
    answered = sent(app, request, REQUESTS)
    assert [(status, request) for status, request in answered if status >= 500] == []
    assert {200, 404, 405, 422} <= {status for status, _ in answered}


def test_requests_mixed_from_traced_cases_cause_no_server_error(app):
    answered = sent(app, mixed_request, MIXED)
    assert [(status, request) for status, request in answered if status >= 500] == []
    assert {200, 422} <= {status for status, _ in answered}
