"""`python -m app fetch` against a local server in place of the hub, and every way to fail."""

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from app.__main__ import main
from tests.paths import ROOT

CONFIG = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 1000,
}
#: Runs commands in one process, and prints the status, the output and the errors of each.
SEVERAL = """
import contextlib, io, json, sys
from app.__main__ import main
results = []
for arguments in json.load(sys.stdin):
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        status = main(["fetch", *arguments])
    results.append((status, out.getvalue(), error.getvalue()))
json.dump(results, sys.stdout)
"""

OWN_CODE = {**CONFIG, "model_type": "strange", "auto_map": {"AutoModelForCausalLM": "modeling_strange.Strange"}}

#: The stand-in's answers: a file, or a status with the hub's own word for it.
ANSWERS = {
    "/some/model/resolve/main/config.json": CONFIG,
    "/some/strange/resolve/main/config.json": OWN_CODE,
    "/some/broken/resolve/main/config.json": "{",
    "/some/gated/resolve/main/config.json": (403, "GatedRepo"),
    "/some/missing/resolve/main/config.json": (404, "RepoNotFound"),
    "/some/dataset/resolve/main/config.json": (404, "EntryNotFound"),
    "/some/model/resolve/v9/config.json": (404, "RevisionNotFound"),
    "/some/failing/resolve/main/config.json": (418, ""),
    "/some/list/resolve/main/config.json": "[]",
}


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does, with the headers that huggingface_hub reads."""

    #: How long it takes to answer the first request, in seconds.
    seconds = 0

    def answer(self):
        time.sleep(Hub.seconds)
        Hub.seconds = 0
        body = ANSWERS[self.path]
        status, word = body if isinstance(body, tuple) else (200, "")
        text = body if isinstance(body, str) else "" if isinstance(body, tuple) else json.dumps(body)
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{abs(hash(self.path))}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        if word:
            self.send_header("X-Error-Code", word)
        self.end_headers()
        return body

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.wfile.write(self.answer())

    def log_message(self, *_args):
        """Log nothing."""


@pytest.fixture(scope="module")
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def environment_of(address, home):
    """The environment of a process that knows no hub but the stand-in."""
    return {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(home), "HF_TOKEN": ""}


@pytest.fixture
def fetched(address, tmp_path):
    """The command in a process of its own."""

    def run(*arguments, **changes):
        environment = {**environment_of(address, tmp_path), **changes}
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "app", "fetch", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_a_config_is_fetched_by_its_id_or_url_and_planned_with(fetched, tmp_path, capsys):
    result = fetched("https://huggingface.co/some/model")
    assert (result.returncode, result.stderr, json.loads(result.stdout)) == (0, "", CONFIG)
    file = tmp_path / "config.json"
    assert fetched("some/model", "--output", str(file)).stdout == ""
    assert main(["estimate", "--config", str(file), "--method", "lora", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["model_type"] == "llama"


def test_a_downloaded_file_is_available_offline(fetched):
    assert fetched("some/model").returncode == 0
    kept = fetched("some/model", HF_HUB_OFFLINE="1")
    assert (kept.returncode, json.loads(kept.stdout)) == (0, CONFIG)


def test_code_of_a_repository_is_never_run_and_an_unknown_family_is_reported(fetched):
    result = fetched("some/strange")
    assert (result.returncode, json.loads(result.stdout)) == (0, OWN_CODE)
    assert "model_type 'strange' is not supported" in result.stderr
    assert "never run" in result.stderr


#: What fails, and what the command says.
FAILURES = [
    (("some/gated",), "id: some/gated is gated: ask for access on https://huggingface.co/some/gated"),
    (("some/missing",), "id: there is no some/missing on the hub, or it is private"),
    (("some/dataset",), "id: some/dataset has no config.json"),
    (("some/model", "--revision", "v9"), "revision: some/model has no such branch, tag or commit"),
    (("not a model",), "id: must be a hub id"),
    (("some/failing",), "pass it with --config"),
    (("some/broken",), "id: some/broken's config.json is not JSON"),
    (("some/list",), "id: some/list's config.json does not contain an object"),
    (("some/model", "--output", "/no/such/place"), "--output: there is no place for the file '/no/such/place'"),
]


@pytest.fixture(scope="module")
def failures(address, tmp_path_factory):
    """The status, output and errors of every command that fails, from one process."""
    environment = environment_of(address, tmp_path_factory.mktemp("hub"))
    commands = [arguments for arguments, _ in FAILURES]
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", SEVERAL],
        cwd=ROOT,
        env=environment,
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return dict(zip(commands, json.loads(ran.stdout), strict=True))


@pytest.mark.parametrize(("arguments", "words"), FAILURES, ids=[" ".join(arguments) for arguments, _ in FAILURES])
def test_every_failed_download_is_reported_with_what_to_do(failures, arguments, words):
    status, output, errors = failures[arguments]
    assert (status, output) == (2, "")
    assert words in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"HF_HUB_OFFLINE": "1"},
            "id: the hub can't be reached, and some/model's config.json is not in the cache",
        ),
        ({"HF_ENDPOINT": "hub"}, "id: the download failed (Request URL is missing"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_process_that_reaches_no_hub_states_why(fetched, changes, words):
    result = fetched("some/model", **changes)
    assert (result.returncode, result.stdout) == (2, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unreachable_hub_is_reported_in_one_line(fetched):
    began = time.monotonic()
    result = fetched("some/model", HF_ENDPOINT="http://127.0.0.1:9")
    assert result.stderr.startswith(
        "id: the hub can't be reached, and some/model's config.json is not in the cache: download"
    )
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert time.monotonic() - began < 15


def test_downloaded_files_are_used_if_the_hub_is_down(fetched):
    assert fetched("some/model").returncode == 0
    kept = fetched("some/model", HF_ENDPOINT="http://127.0.0.1:9")
    assert (kept.returncode, kept.stderr, json.loads(kept.stdout)) == (0, "", CONFIG)


def test_the_command_waits_for_a_slow_hub(fetched, monkeypatch):
    monkeypatch.setattr(Hub, "seconds", 2)
    assert json.loads(fetched("some/model").stdout) == CONFIG


def test_without_the_extra_it_states_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["fetch", "some/model"]) == 2
    assert "pip install 'huggingface-hub>=2,<3'" in capsys.readouterr().err


def test_only_the_fetch_command_imports_the_hub():
    code = "import sys, app.application; sys.exit('huggingface_hub' in sys.modules or 'app.interop.hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False).returncode == 0
