"""The examples in README.md and in the commands' help run as printed."""

import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from app.__main__ import main
from app.api import diagnose
from app.cli import COMMANDS
from calculator.methods import METHODS, USUAL_METHODS
from tests.paths import ROOT

README = (ROOT / "README.md").read_text()

#: The request that the README sends.
(REQUEST,) = re.findall(
    r"^    curl -s http://127\.0\.0\.1:8000/api/v1/estimate .* -d '(.*?)'$", README, re.MULTILINE | re.DOTALL
)


def commands(text, indent):
    """The lines that begin with the program's name, those that a backslash ends joined with their next."""
    joined = re.sub(r"\\\n\s*", "", text)
    return re.findall(rf"^{indent}(python -m app .*)$", joined, re.MULTILINE)


HELPED = [line for module in COMMANDS.values() for line in commands(import_module(module).__doc__, "")]

#: A tokenizer that splits at spaces.
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "pre_tokenizer": {"type": "Whitespace"},
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"},
}

#: Commands that would go online or read from a pipe.
APART = ("python -m app fetch", "python -m app import")


def test_the_readme_is_a_page():
    assert len(README.splitlines()) < 100


@pytest.mark.parametrize("line", [*commands(README, "    "), *(line for line in HELPED if not line.startswith(APART))])
def test_a_printed_command_shows_an_answer(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("run.json").write_text(REQUEST)
    _, failed = diagnose.EXAMPLES.requests["file"]
    Path("train.log").write_text(failed["message"])
    Path("axolotl.yaml").write_text(failed["content"])
    Path("data.jsonl").write_text('{"text": "a a a"}\n{"text": "a a"}\n')
    Path("tokenizer.json").write_text(json.dumps(TOKENIZER))
    _, *arguments = shlex.split(line.removeprefix("python -m "))
    assert main(arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) > 3 or "--output" in arguments


def test_the_methods_without_a_name_are_counted():
    (count,) = re.findall(r"of (\d+) more methods of PEFT", README)
    further = (name for name, cls in METHODS.items() if cls.facts.config_class and name not in USUAL_METHODS)
    assert int(count) == len([*further])


def test_every_command_except_serve_and_mcp_has_an_example_in_its_help():
    assert {line.split()[3] for line in HELPED} == set(COMMANDS) - {"serve", "mcp"}


def test_the_printed_request_is_answered_and_exported(client):
    assert client.post("/api/v1/estimate", json=json.loads(REQUEST)).json()["fit"]["verdict"] == "fits"
    for name in re.search(r"`(peft)`.*?`(axolotl)` or `(llama-factory)`", README, re.DOTALL).groups():
        answer = client.post("/api/v1/export", json={**json.loads(REQUEST), "format": name})
        assert answer.status_code == 200, name
