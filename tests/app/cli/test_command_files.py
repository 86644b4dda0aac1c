"""An unreadable or unwritable file is reported with its option, its path and what to do."""

import io
import json
import sys

import pytest

from app.__main__ import main
from app.cli import files

READ = "give the path of a file, or - for standard input"

#: Every option that names a file to read, by command.
READERS = [
    *((name, "--request") for name in ("estimate", "compare", "limits", "plan", "inference", "sweep", "export")),
    *((name, "--config") for name in ("estimate", "compare", "limits", "plan", "inference", "sweep", "export")),
    ("import", "FILE"),
]


def run(command, option, path):
    """Return the exit status of a command that reads a file."""
    return main([command, *(() if option == "FILE" else (option,)), str(path)])


@pytest.mark.parametrize(("command", "option"), READERS)
def test_a_file_that_can_not_be_read_is_reported_by_its_option_and_what_to_do(command, option, tmp_path, capsys):
    none, empty = tmp_path / "none", tmp_path / "empty"
    empty.write_bytes(b"\n")
    for path, message in (
        (none, f"there is no file '{none}': {READ}"),
        ("", f"there is no file '': {READ}"),
        (tmp_path, f"'{tmp_path}' is a directory: give the path of a file"),
        (empty, f"'{empty}' is empty: {READ}"),
        (f"{empty}/x", f"'{empty}/x' can't be read (Not a directory): {READ}"),
    ):
        assert run(command, option, path) == 2
        assert capsys.readouterr().err == f"{option}: {message}\n"


@pytest.mark.parametrize(("command", "option"), READERS)
def test_standard_input_that_is_closed_is_empty(command, option, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert run(command, option, "-") == 2
    assert capsys.readouterr().err == f"{option}: standard input is empty: {READ}\n"


@pytest.mark.parametrize("raw", [b"\x00\xff\x80 binary", b"{", b"[1,"])
def test_a_file_that_is_not_json_is_reported_by_its_option_and_name(raw, tmp_path, capsys):
    file = tmp_path / "request.json"
    file.write_bytes(raw)
    assert main(["estimate", "--request", str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"--request: '{file}' is not ")


def test_an_endless_file_is_read_only_up_to_the_limit(monkeypatch, capsys):
    monkeypatch.setattr(files, "LARGEST", 1 << 20)
    assert main(["estimate", "--request", "/dev/zero"]) == 2
    assert capsys.readouterr().err == f"--request: '/dev/zero' is larger than 1 MiB: {READ}\n"


def test_a_byte_order_mark_is_skipped(plan, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + json.dumps(plan).encode())))
    assert main(["estimate", "--request", "-", "--json"]) == 0
    capsys.readouterr()


def test_an_output_that_can_not_be_written_is_reported_by_its_option_and_what_to_do(tmp_path, capsys):
    written = "give a path in an existing directory, or omit the option for standard output"
    for path, message in (
        (tmp_path / "none" / "x.py", f"there is no place for the file '{tmp_path}/none/x.py': {written}"),
        (tmp_path, f"'{tmp_path}' is a directory: give the path of a file"),
    ):
        assert main(["export", "--model", "gpt2", "--method", "lora", "--output", str(path)]) == 2
        assert f"--output: {message}\n" in capsys.readouterr().err
