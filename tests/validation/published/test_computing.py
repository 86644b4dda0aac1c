"""Rows are computed once: a journal keeps them until the figure or the code is another."""

from dataclasses import replace

import pytest

from validation.__main__ import main
from validation.published import computing
from validation.published.computing import computed, fingerprint
from validation.published.results import read, result
from validation.published.rules import measurements

FIGURES = [figure for figure in measurements() if figure.source == "vramcalc"][:3]


@pytest.fixture
def counted(monkeypatch):
    """The figures whose rows are computed."""
    figures = []

    def counting(figure):
        figures.append(figure.id)
        return result(figure)

    monkeypatch.setattr(computing, "result", counting)
    return figures


def test_an_interrupted_run_continues_with_the_rows_that_are_left(tmp_path, counted):
    journal = tmp_path / "published.jsonl"
    computed(FIGURES[:2], journal, processes=1)
    rows = computed(FIGURES, journal, processes=1)
    assert counted == [figure.id for figure in FIGURES]
    assert rows == [result(figure) for figure in FIGURES]


def test_a_figure_that_changed_is_computed_again(tmp_path, counted):
    journal = tmp_path / "published.jsonl"
    computed(FIGURES[:1], journal, processes=1)
    row = computed([replace(FIGURES[0], bytes=2 * FIGURES[0].bytes)], journal, processes=1)[0]
    assert len(counted) == 2
    assert row["measured_bytes"] == 2 * FIGURES[0].bytes


def test_rows_of_other_code_are_computed_again(tmp_path, counted, monkeypatch):
    journal = tmp_path / "published.jsonl"
    computed(FIGURES[:1], journal, processes=1)
    monkeypatch.setattr(computing, "fingerprint", lambda: "other")
    computed(FIGURES[:1], journal, processes=1)
    assert len(counted) == 2


def test_the_fingerprint_is_one_of_the_code():
    assert len(fingerprint()) == 12
    assert fingerprint() == fingerprint()


def test_several_processes_compute_the_same_rows(tmp_path):
    assert computed(FIGURES, tmp_path / "journal.jsonl", processes=2) == [result(figure) for figure in FIGURES]


def test_the_command_writes_a_file_only_if_it_is_asked_to(tmp_path, capsys):
    file, journal = tmp_path / "published.json", str(tmp_path / "journal.jsonl")
    arguments = ["published", "--sources", "vramcalc", "--journal", journal, "--processes", "1"]
    assert main(arguments) == 0
    assert not file.exists()
    assert main([*arguments, "--write", str(file)]) == 0
    assert {row["source"] for row in read(file)} == {"vramcalc"}
    assert "vramcalc" in capsys.readouterr().out
