"""Colors on a terminal only, and the same text everywhere."""

import io
import sys

import pytest
from rich.text import Text

from app.__main__ import main

PLAN = ["compare", "--model", "HuggingFaceTB/SmolLM2-135M", "--methods", "full,lora", "--gpu", "rtx-4090"]


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def printed(monkeypatch, stream, **environment):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "40", **environment}.items():
        monkeypatch.setenv(name, value)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        assert main([*PLAN, "--reserved", "rule"]) == 0
    return stream.getvalue()


def test_verdicts_have_colors_on_a_terminal(monkeypatch):
    shown = printed(monkeypatch, Terminal())
    assert "\x1b[32mFits\x1b[0m" in shown
    assert Text.from_ansi(shown).plain.rstrip() == printed(monkeypatch, io.StringIO()).rstrip()


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colors_are_switched_off_as_in_other_programs(monkeypatch, environment):
    assert printed(monkeypatch, Terminal(), **environment) == printed(monkeypatch, io.StringIO())
