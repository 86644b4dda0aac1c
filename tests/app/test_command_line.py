"""The command line prints what the API answers."""

import json

import pytest

from app.__main__ import main, parser


def test_an_estimate_is_what_the_api_answers(client, plan, tmp_path, capsys):
    file = tmp_path / "request.json"
    file.write_text(json.dumps(plan))
    assert main(["estimate", str(file)]) == 0
    assert json.loads(capsys.readouterr().out) == client.post("/api/v1/estimate", json=plan).json()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("{}", "model: "),
        ('{"model": "gpt2", "method": {"name": "lora", "r": 0}}', "method.r: must be at least 1"),
    ],
)
def test_a_request_without_an_answer_is_told_and_exits_with_2(text, said, tmp_path, capsys):
    file = tmp_path / "request.json"
    file.write_text(text)
    assert main(["estimate", str(file)]) == 2
    assert said in capsys.readouterr().err


def test_a_file_that_is_not_there_is_told(tmp_path, capsys):
    assert main(["estimate", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err


def test_host_and_port_come_from_the_environment_too(monkeypatch):
    assert (parser().parse_args([]).host, parser().parse_args([]).port) == ("127.0.0.1", 8000)
    monkeypatch.setenv("HOST", "0.0.0.0")
    monkeypatch.setenv("PORT", "9001")
    assert (parser().parse_args([]).host, parser().parse_args([]).port) == ("0.0.0.0", 9001)
    assert parser().parse_args(["--port", "7"]).port == 7
