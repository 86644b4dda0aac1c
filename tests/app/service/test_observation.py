"""Every request is counted under a bounded set of names, and is a line of the access log without its plan."""

import json
import logging
import re
from contextlib import nullcontext

import pytest

from app.service.observation import ObservationMiddleware
from app.service.served import endpoints
from tests.serving import run


def value(client, name):
    found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("/api/v1/models/meta-llama/Llama-3.2-1B", "/api/v1/models/{id}"),
        ("/lesson/lora", "/lesson/{name}"),
        ("/nothing/here", "other"),
        ("/static/style.css", "/static"),
    ],
)
def test_addresses_are_counted_by_endpoint(client_of, address, endpoint):
    client = client_of()
    status = client.get(address).status_code
    name = f'headroom_requests_total{{endpoint="{endpoint}",method="GET",status="{status}"}}'
    before = value(client, name)
    client.get(f"{address}?q=1")
    assert value(client, name) == before + 1


def test_estimates_durations_and_the_cache_are_counted(client_of, run):
    client = client_of()
    names = (
        'headroom_estimates_total{endpoint="/api/v1/estimate"}',
        'headroom_estimates_total{endpoint="/api/v1/sweep"}',
        'headroom_request_seconds_count{endpoint="/api/v1/estimate"}',
        'headroom_cache_requests_total{result="hit"}',
        'headroom_cache_requests_total{result="miss"}',
    )
    before = [value(client, name) for name in names]
    for _ in range(3):
        client.post("/api/v1/estimate", json=run)
    client.post("/api/v1/sweep", json={"request": run, "grid": {"method.r": [8, 16]}, "format": "csv"})
    after = [value(client, name) for name in names]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 2, 3, 2, 1]


def test_a_line_of_the_log_has_neither_query_nor_body(app, caplog, run):
    from fastapi.testclient import TestClient

    client = TestClient(ObservationMiddleware(app, endpoints(), logged=True))
    log = logging.getLogger("headroom.access")
    log.propagate = True
    with caplog.at_level(logging.INFO, logger=log.name):
        client.post("/api/v1/estimate", json=run, params={"secret": "plan"})
    (line,) = (record.getMessage() for record in caplog.records if record.name == log.name)
    logged = json.loads(line)
    assert set(logged) == {"time", "method", "path", "status", "milliseconds", "bytes", "client"}
    assert (logged["method"], logged["path"], logged["status"]) == ("POST", "/api/v1/estimate", 200)
    assert logged["bytes"] > 1000
    assert not re.search("secret|llama", line, re.IGNORECASE)


@pytest.mark.parametrize(("fails", "status"), [(False, 499), (True, 500)])
def test_a_request_without_a_response_is_of_a_client_that_left_or_an_error(client_of, fails, status):
    async def app(*_):
        if fails:
            raise ValueError

    name = f'headroom_requests_total{{endpoint="other",method="GET",status="{status}"}}'
    client = client_of()
    before = value(client, name)
    scope = {"type": "http", "method": "GET", "path": "/nothing", "headers": []}
    with pytest.raises(ValueError, match=r"^$") if fails else nullcontext():
        run(ObservationMiddleware(app, endpoints(), logged=False)(scope, None, None))
    assert value(client, name) == before + 1
