"""Errors of `python -m validation` name the argument, the value and the way out."""

import pytest

from validation.__main__ import COMMANDS, main


def test_without_a_command_the_commands_are_listed(capsys):
    assert main([]) == 2
    lines = {line.split()[0] for line in capsys.readouterr().err.splitlines() if line.startswith("  ")}
    assert COMMANDS.keys() <= lines


def test_an_unknown_command_names_the_close_one(capsys):
    with pytest.raises(SystemExit):
        main(["trac"])
    assert "'trac' is not a command: did you mean trace?" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["trace", "compare", "generate", "cases", "replays"])
def test_a_file_that_is_missing_or_not_json_is_named(command, tmp_path, capsys):
    file = tmp_path / "request.json"
    assert main([command, str(file)]) == 2
    assert f"{file}: No such file or directory: give the path of a file" in capsys.readouterr().err
    file.write_text("{")
    assert main([command, str(file)]) == 2
    assert "not JSON: " in capsys.readouterr().err


def test_a_field_that_no_random_request_sets_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("validation.random_grid.grid.MOST_UNWANTED", 3)
    assert main(["grid", "--count", "1", "--only", "training.autocst"]) == 2
    assert "--only training.autocst: none of 3 random requests sets it" in capsys.readouterr().err


def test_cases_are_recorded_from_a_file_or_from_random_requests(tmp_path, capsys):
    assert main(["record", str(tmp_path / "cases.jsonl")]) == 2
    assert capsys.readouterr().err.startswith("--requests: give a file of requests")


@pytest.mark.parametrize("command", ["grid", "phase-traces"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--sharding", "zero4"], "argument --sharding: invalid choice 'zero4': did you mean zero3?"),
        (["--sharding", "x"], "argument --sharding: invalid choice 'x': choose from ddp, fsdp, zero1, zero2, zero3"),
        (["--nope"], "unrecognized arguments: --nope"),
    ],
)
def test_a_wrong_choice_names_the_choices_and_the_help_without_a_long_usage(command, given, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([command, *given])
    assert exit_.value.code == 2
    program = f"python -m validation {command}"
    assert capsys.readouterr().err.splitlines() == [
        f"usage: {program} [OPTION]...",
        f"{program}: error: {message}",
        f"{program} --help lists the options",
    ]
