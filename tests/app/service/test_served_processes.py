"""A server of two processes, and one for long requests: requests reach them, metrics add up, and a stop is graceful."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from tests.paths import ROOT

#: The machine of a test can be busy: what takes seconds here can take a minute.
PATIENCE = 120

RUN = {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "lora"}, "reserved": "rule"}

#: A sweep of some seconds.
SWEEP = {"request": RUN, "grid": {"training.sequence_length": list(range(64, 64 + 800)), "method.r": [8]}}


@pytest.fixture(scope="module")
def server():
    """The process and the address of a server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--port", str(port), "--workers", "2", "--long-workers", "1", "--root-path", "/sizes", "--grace", "600"]
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "serve", *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    until = time.monotonic() + PATIENCE
    while True:
        try:
            urlopen(f"{address}/readyz").close()
            break
        except (URLError, ConnectionError) as error:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < until, "the server did not start"
            if isinstance(error, HTTPError):
                error.close()
            time.sleep(0.1)
    with process:
        yield process, address
        process.kill()


def post(address, path, body):
    request = Request(f"{address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=PATIENCE) as response:
        return response.read()


def test_long_and_short_requests_are_answered_and_their_metrics_added_up(server):
    _, address = server
    for _ in range(8):
        assert json.loads(post(address, "/api/v1/estimate", RUN))["memory"]["peak_allocated_bytes"]
    rows = post(address, "/api/v1/sweep", {"request": RUN, "grid": {"method.r": [8, 16, 32]}}).splitlines()
    assert [json.loads(row)["point"]["method.r"] for row in rows] == [8, 16, 32]
    plan = {"model": RUN["model"], "device": {"gpu": "rtx-4060"}, "reserved": "rule"}
    assert json.loads(post(address, "/api/v1/plan", plan))["plans"]
    with urlopen(f"{address}/?model=gpt2&reserved=rule", timeout=PATIENCE) as page:
        assert 'action="/sizes/"' in page.read().decode()
    with urlopen(f"{address}/metrics") as response:
        metrics = response.read().decode()
    row = r'^headroom_requests_total\{endpoint="(\S+?)",.*status="200"\} (\S+)$'
    counted = dict(re.findall(row, metrics, re.MULTILINE))
    assert {counted[path] for path in ("/api/v1/sweep", "/api/v1/plan", "/")} == {"1.0"}
    assert counted["/api/v1/estimate"] == "8.0"
    assert 'headroom_estimates_total{endpoint="/api/v1/sweep"} 3.0' in metrics


def test_refusals_of_long_requests_are_the_applications(server):
    _, address = server
    with pytest.raises(HTTPError) as refused:
        post(address, "/api/v1/plan", {"model": "none", "device": {"gpu": "rtx-4060"}})
    with refused.value:
        problem = json.load(refused.value)
    assert (refused.value.code, problem["errors"][0]["loc"]) == (422, "model")
    assert problem["type"] == "/sizes/docs#problem-invalid-request"


def test_a_stop_lets_the_requests_finish_that_have_arrived(server):
    process, address = server
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=PATIENCE)
    with closing(connection):
        connection.request("POST", "/api/v1/sweep", json.dumps(SWEEP), {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            first = response.read(1)
            process.send_signal(signal.SIGTERM)
            rows = (first + response.read()).splitlines()
    assert len(rows) == 800
    assert json.loads(rows[-1])["point"]["training.sequence_length"] == 863
    assert process.wait(PATIENCE) == 0
    lines = [json.loads(line) for line in process.stdout.read().splitlines()]
    assert (lines[-1]["path"], lines[-1]["status"]) == ("/sizes/api/v1/sweep", 200)
    assert lines[-1]["bytes"] == sum(len(row) + 1 for row in rows)
    with pytest.raises(URLError):
        urlopen(f"{address}/healthz")
