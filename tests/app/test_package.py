"""The wheel, installed into an environment of its own and used from another folder."""

import json
import os
import socket
import subprocess
import sys
import sysconfig
import time
import venv
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from app.resources import VERSION
from tests.paths import ROOT

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment with the wheel in it. The requirements are those that the tests run with."""
    place = tmp_path_factory.mktemp("installed")
    build = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", place, ROOT]
    subprocess.run(build, check=True)
    venv.create(place / "env", symlinks=True)
    (wheel,) = place.glob("*.whl")
    bin_ = place / "env" / "bin"
    # The first start compiles what it imports, which is less than all that pip would compile.
    install = ["install", "--no-index", "--no-deps", "--no-compile", wheel]
    subprocess.run([*PIP, "--python", bin_ / "python", *install], check=True)
    (packages,) = (place / "env" / "lib").glob("python*/site-packages")
    (packages / "requirements.pth").write_text(sysconfig.get_path("purelib"))
    return bin_


def run(environment, *arguments, **options):
    path = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen(
        [environment / "headroom", *arguments],
        cwd=environment.parent,
        env=path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def test_the_installed_command_estimates_and_exports(environment):
    plan = ("--model", "meta-llama/Llama-3.2-1B", "--method", "lora", "--r", "8", "--reserved", "rule")
    estimate = run(environment, "estimate", *plan, "--json")
    answer = json.loads(estimate.communicate()[0])
    assert (estimate.returncode, answer["model"]["id"]) == (0, "meta-llama/Llama-3.2-1B")
    assert "get_peft_model" in run(environment, "export", "--format", "peft", *plan).communicate()[0]
    assert "usage: headroom limits" in run(environment, "limits", "--help").communicate()[0]


def test_the_installed_package_is_typed_and_has_functions(environment):
    code = (
        "import calculator, pathlib; assert pathlib.Path(calculator.__file__).with_name('py.typed').exists();"
        "from calculator import estimate; print(estimate('HuggingFaceTB/SmolLM2-135M', {'name': 'full'}).model.id)"
    )
    command = [environment / "python", "-c", code]
    result = subprocess.run(command, cwd=environment.parent, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("HuggingFaceTB/SmolLM2-135M\n", "")


@contextmanager
def served(environment):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = run(environment, "serve", "--port", str(port), "--workers", "2")
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 60
        while True:
            try:
                urlopen(f"{address}/healthz").close()
                break
            except URLError:
                assert server.poll() is None, server.communicate()[0]
                assert time.monotonic() < until, "the server did not start"
                time.sleep(0.05)
        yield address
    finally:
        server.terminate()
        server.communicate(timeout=30)


def get(address, path, body=None):
    headers = {"Content-Type": "application/json"} if body else {}
    with urlopen(Request(f"{address}{path}", body and json.dumps(body).encode(), headers)) as response:
        return response.read().decode()


def test_the_installed_package_serves_pages_and_answers(environment):
    with served(environment) as address:
        page = get(address, "/?model=meta-llama/Llama-3.2-1B&reserved=rule")
        assert "<h1" in page
        style = page.split('rel="stylesheet" href="')[1].split('"')[0]
        assert "{" in get(address, style)
        assert "/api/v1/estimate" in get(address, "/openapi.json")
        assert json.loads(get(address, "/healthz"))["version"] == VERSION
        assert json.loads(get(address, "/api/v1/validation"))
        body = {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "lora"}, "reserved": "rule"}
        assert json.loads(get(address, "/api/v1/estimate", body))["memory"]["peak_allocated_bytes"]
