import json
from pathlib import Path

import pytest

from tests.paths import CASE_FILES
from validation.__main__ import main

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

FILE = str(CASE_FILES / "public.jsonl")


@pytest.fixture
def wrong(tmp_path):
    """A file of one case with an expected peak that is 1 % too high."""
    line = next(line for line in Path(FILE).read_text().splitlines() if '"core-029"' in line)
    case = json.loads(line)
    case["expected"]["phases"]["backward"] += 8_816_389
    case["expected"]["peak_allocated_bytes"] += 8_816_389
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps(case) + "\n")
    return str(path)


def test_a_case_that_agrees_is_reported_as_equal(capsys):
    assert main(["cases", FILE, "--ids", "core-029"]) == 0
    assert "to the byte" in capsys.readouterr().out


def test_a_case_that_differs_fails_with_its_difference(wrong, capsys):
    assert main(["cases", wrong]) == 1
    assert "phases.backward -8,816,389" in capsys.readouterr().out


def test_tags_and_a_limit_select_cases(tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    arguments = [
        "cases",
        FILE,
        "--tags",
        "inner",
        "peak",
        "method:lora",
        "--limit",
        "1",
        "--results",
        str(results),
    ]
    main(arguments)
    (row,) = map(json.loads, results.read_text().splitlines())
    assert row["id"] in capsys.readouterr().out


def test_cases_in_the_results_file_are_not_traced_again(tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    row = {"id": "core-029", "seconds": 1.0, "error": 0.5, "differences": {"phases.forward": 7}}
    results.write_text(json.dumps(row) + "\n")
    assert main(["cases", FILE, "--ids", "core-029", "--results", str(results)]) == 1
    assert "phases.forward +7" in capsys.readouterr().out
    assert len(results.read_text().splitlines()) == 1


def test_a_case_that_cannot_be_traced_is_reported_with_its_reason(tmp_path, capsys):
    case = {
        "id": "odd",
        "tags": [],
        "request": {"model": {"config": {"model_type": "no_such_family"}}, "method": {"name": "full"}},
        "expected": {"phases": {}},
    }
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps(case) + "\n")
    assert main(["cases", str(path)]) == 1
    assert "odd            failed: PlanError" in capsys.readouterr().out
