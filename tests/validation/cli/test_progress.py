import io
import sys

from rich.text import Text

from validation.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    progress = Progress(4, "traced")
    progress.step()
    progress.step()
    progress.close()
    return stream.getvalue()


def test_the_bar_counts_what_is_done_on_a_terminal(monkeypatch):
    shown = run(monkeypatch, Terminal())
    assert [count for count in ("0/4", "1/4", "2/4") if count not in shown] == []
    assert "2/4 traced" in Text.from_ansi(shown).plain


def test_there_is_no_bar_if_standard_error_is_a_file(monkeypatch):
    assert run(monkeypatch, io.StringIO()) == ""
