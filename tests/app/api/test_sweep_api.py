"""`POST /api/v1/sweep` streams rows as NDJSON or CSV until the client disconnects."""

import asyncio
import csv
import gc
import io
import json
import socket
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from threading import Thread

import pytest
import uvicorn
from pydantic import TypeAdapter

from app.api.answers.sweep import FIGURES, MEDIA_TYPES, SweepRow, blocks, lines, row
from calculator.estimation.estimate import estimate
from calculator.limit_search import sweep
from calculator.limit_search.sweep import answers, parse_sweep

GRID = {"training.sequence_length": [512, 1024], "method.name": ["qlora", "prefix"]}


@pytest.fixture
def body(plan):
    plan["method"] = {}
    return {"request": plan, "grid": GRID}


@pytest.fixture
def served(app):
    """The address of a real server of the application."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=server.run, args=([listening],))
        thread.start()
        yield listening.getsockname()
        server.should_exit = True
        thread.join()


def rows(response):
    return [json.loads(line) for line in response.text.splitlines()]


def test_a_row_has_the_figures_of_its_estimate(client, plan, body):
    response = client.post("/api/v1/sweep", json=body)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/x-ndjson")
    found = rows(response)
    assert [row["point"] for row in found] == [
        {"training.sequence_length": length, "method.name": name}
        for length in (512, 1024)
        for name in ("qlora", "prefix")
    ]
    plan["method"], plan["training"]["sequence_length"] = {"name": "qlora"}, 1024
    answer = client.post("/api/v1/estimate", json={**plan, "reserved": "rule"}).json()
    for part, names in FIGURES.items():
        assert found[2][part] == {name: answer[part][name] for name in names}
    assert found[2]["problems"] == []


def test_a_refused_point_is_a_row_with_the_problems_of_its_estimate(client, plan, body):
    row = rows(client.post("/api/v1/sweep", json=body))[1]
    assert (row["parameters"], row["memory"], row["fit"]) == (None, None, None)
    plan["method"], plan["training"]["sequence_length"] = {"name": "prefix"}, 512
    assert row["problems"] == client.post("/api/v1/estimate", json=plan).json()["errors"]


def test_every_row_matches_the_documentation(client, body):
    strict = TypeAdapter(SweepRow)
    for line in rows(client.post("/api/v1/sweep", json=body)):
        assert strict.validate_python(line).model_dump(mode="json") == line


@pytest.mark.parametrize(
    ("format_", "accept", "kind"),
    [
        (None, "*/*", "ndjson"),
        (None, "text/csv", "csv"),
        (None, "application/x-ndjson, text/csv;q=0.5", "ndjson"),
        (None, "text/csv;q=0", "ndjson"),
        (None, "text/csv; q=0.000, */*", "ndjson"),
        (None, "application/x-ndjson;q=0, text/csv", "csv"),
        (None, "application/x-ndjson;q=0.5, Text/CSV;q=0.8", "csv"),
        (None, "text/csv, application/x-ndjson", "ndjson"),
        (None, "text/csv, */*", "csv"),
        (None, "text/*", "csv"),
        (None, "*/*;q=0.1, text/csv;header=present;q=0.2", "csv"),
        (None, "application/json", "ndjson"),
        (None, "text/csv;q=often, */*;q=1.5", "csv"),
        ("csv", "*/*", "csv"),
        ("ndjson", "text/csv", "ndjson"),
    ],
)
def test_the_format_is_the_requests_or_what_is_accepted(client, body, format_, accept, kind):
    response = client.post("/api/v1/sweep", json={**body, "format": format_}, headers={"Accept": accept})
    assert response.headers["content-type"].split(";")[0] == MEDIA_TYPES[kind]
    assert "Accept" in response.headers["vary"].split(", ")


def test_csv_has_the_same_figures_under_their_dotted_names(client, body):
    answer = rows(client.post("/api/v1/sweep", json=body))
    table = list(csv.DictReader(io.StringIO(client.post("/api/v1/sweep", json={**body, "format": "csv"}).text)))
    assert len(table) == len(answer)
    for line, expected in zip(table, answer, strict=True):
        assert line["method.name"] == expected["point"]["method.name"]
        for part, names in FIGURES.items():
            for name in names:
                assert line[f"{part}.{name}"] == ("" if expected[part] is None else str(expected[part][name]))
    assert table[1]["problems"].startswith("training.gradient_checkpointing: PEFT refuses prefix tuning")


@pytest.mark.parametrize(
    ("changes", "loc"),
    [
        ({"format": "xml"}, "format"),
        ({"grid": {}}, "grid"),
        ({"grid": {"method.r": list(range(1, 10_002))}}, "grid"),
        ({"request": None}, "request"),
        ({"points": 1}, "points"),
    ],
)
def test_a_refused_sweep_names_its_field(client, body, changes, loc):
    response = client.post("/api/v1/sweep", json={**body, **changes})
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
    assert [error["loc"] for error in response.json()["errors"]] == [loc]


def test_no_object_is_refused(client):
    assert client.post("/api/v1/sweep", json=[]).status_code == 422


def test_blocks_are_sent_when_they_are_old_or_large_enough():
    ticks = count(0, 0.03)
    sent = list(blocks(["line\n"] * 9, clock=lambda: next(ticks)))
    assert sent == ["line\n" * 4, "line\n" * 4, "line\n"]
    assert [len(block) for block in blocks(["x" * 40_000] * 3, clock=lambda: 0)] == [80_000, 40_000]


@pytest.mark.parametrize("kind", ["ndjson", "csv"])
def test_the_rows_before_an_error_are_sent(served, body, monkeypatch, kind):
    """The connection then breaks, so that nobody takes them for all."""

    def faulty(request, _):
        if request.training.micro_batch_size == 3:
            raise ZeroDivisionError
        return estimate(request)

    monkeypatch.setattr(sweep, "estimate", faulty)
    body["grid"] = {"method.name": ["lora"], "training.micro_batch_size": [1, 2, 3, 4]}
    with socket.create_connection(served, timeout=20) as line:
        raw = json.dumps({**body, "format": kind}).encode()
        head = f"POST /api/v1/sweep HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}"
        line.sendall(head.encode() + b"\r\n\r\n" + raw)
        answer = b"".join(iter(lambda: line.recv(1 << 16), b"")).decode()
    assert answer.startswith("HTTP/1.1 200")
    assert not answer.endswith("0\r\n\r\n")
    assert answer.count("8030261248") == 2


def test_a_longer_grid_needs_no_more_memory(body):
    body["grid"] = {"method.name": ["prefix"], "training.micro_batch_size": list(range(1, 10_001))}
    sweep = parse_sweep(body)
    text = lines(sweep.grid, map(row, answers(sweep)), "ndjson")
    list(islice(text, 100))
    gc.collect()
    tracemalloc.start()
    written = sum(len(line) for line in islice(text, 2000))
    gc.collect()
    allocated, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert written > 500_000
    assert allocated < 50_000


def test_nothing_more_is_computed_once_the_client_has_disconnected(app, plan, monkeypatch):
    estimated = []
    monkeypatch.setattr(sweep, "estimate", lambda request, _: estimated.append(request) or estimate(request))
    raw = json.dumps({"request": plan, "grid": {"method.r": list(range(1, 5001))}}).encode()
    blocks = []

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/api/v1/sweep",
        "raw_path": b"/api/v1/sweep",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"accept-encoding", b"gzip")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }

    async def left():
        sent, gone = iter([{"type": "http.request", "body": raw, "more_body": False}]), asyncio.Event()

        async def receive():
            message = next(sent, None)
            if message is None:
                await gone.wait()
            return message or {"type": "http.disconnect"}

        async def send(message):
            if message.get("body"):
                blocks.append(message["body"])
                gone.set()

        await app(scope, receive, send)

    # Browser tests leave an event loop running in the main thread.
    with ThreadPoolExecutor(1) as executor:
        executor.submit(asyncio.run, left()).result()
    assert 0 < len(estimated) < 1000
    assert json.loads(blocks[0].splitlines()[0])["point"] == {"method.r": 1}
