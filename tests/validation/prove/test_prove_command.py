import json
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator

import validation.prove
from validation.__main__ import main
from validation.prove.command import NAMES, lines
from validation.prove.results import RESULTS, AnotherEnvironmentError, before, document, write
from validation.prove.running import experiment, proven

SCHEMA = json.loads((Path(validation.prove.__file__).parent / "schema.json").read_text())

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_quick_run_writes_a_valid_file_where_it_is_told_to(tmp_path, capsys):
    path = tmp_path / "lesson.json"
    assert main(["prove", "identity", "--quick", "--device", "cpu", "--write", str(path)]) == 0
    told = json.loads(path.read_text())
    Draft202012Validator(SCHEMA).validate(told)
    assert [each["name"] for each in told["experiments"]] == ["identity"]
    assert "Identity at initialisation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["levitation"], "NAME levitation: there is no such experiment; there are identity"),
        (["identity", "--threads", "0"], "--threads 0: take 1 or more"),
        (["identity", "--device", "abacus"], "--device abacus: torch"),
        (["identity", "--device", "cuda:99"], "has no such device; it has cpu"),
    ],
)
def test_what_is_not_there_is_wrong_usage(asked, told, capsys):
    assert main(["prove", *asked]) == 2
    assert told in capsys.readouterr().err


def without_time(told):
    """An experiment without its figures of time."""
    claims = [{**claim, "figures": [f for f in claim["figures"] if not f["timing"]]} for claim in told["claims"]]
    return {**told, "seconds": 0, "claims": claims}


def test_another_run_finds_the_same():
    names = ("identity", "merging", "nf4")
    first, second = ([without_time(each) for each in proven(names, torch.device("cpu"), quick=True)] for _ in "ab")
    assert first == second


def test_every_experiment_goes_by_its_name_and_takes_fewer_steps_where_it_is_quick():
    found = [experiment(name) for name in NAMES]
    assert tuple(each.name for each in found) == NAMES
    assert [each.name for each in found if each.steps(True) > each.steps(False)] == []


ENVIRONMENT = {
    "date": "2030-01-01",
    "device": "cpu",
    "gpu": None,
    "cpu": "x",
    "threads": 1,
    "versions": {},
    "python": "3",
}


def test_a_named_experiment_leaves_the_others_in_the_file(tmp_path):
    path = tmp_path / "lesson.json"
    write(document(ENVIRONMENT, [{"name": "a"}, {"name": "b", "seconds": 1}], "ab", quick=False), path)
    kept = before(path, ENVIRONMENT | {"date": "2031-01-01"}, quick=False)
    told = document(ENVIRONMENT, [*kept, {"name": "b", "seconds": 2}], "ab", quick=False)
    assert told["experiments"] == [{"name": "a"}, {"name": "b", "seconds": 2}]


@pytest.mark.parametrize(("change", "quick"), [({"cpu": "y"}, False), ({}, True)])
def test_a_file_that_was_made_otherwise_is_not_added_to(tmp_path, change, quick):
    path = tmp_path / "lesson.json"
    write(document(ENVIRONMENT, [], "ab", quick=False), path)
    with pytest.raises(AnotherEnvironmentError, match=r"differ.*prove every experiment, or name another file"):
        before(path, ENVIRONMENT | change, quick=quick)


def test_a_written_file_reads_as_it_was(tmp_path):
    told = document(ENVIRONMENT, [{"name": "a", "claims": [{"x": [0.5] * 99, "y": "é" * 99}, []]}], "a", quick=False)
    write(told, tmp_path / "lesson.json")
    assert json.loads((tmp_path / "lesson.json").read_text()) == told


def committed():
    return json.loads(RESULTS.read_text())


def test_the_committed_results_are_whole_and_valid():
    told = committed()
    Draft202012Validator(SCHEMA).validate(told)
    assert not told["quick"]
    assert tuple(each["name"] for each in told["experiments"]) == NAMES


def test_the_committed_ids_are_unique_and_every_check_is_of_a_figure():
    claims = [claim for each in committed()["experiments"] for claim in each["claims"]]
    drawn = [drawing for each in committed()["experiments"] for drawing in (*each["curves"], *each["tables"])]
    for ids in ([claim["id"] for claim in claims], [each["id"] for each in drawn]):
        assert len(set(ids)) == len(ids)
    for claim in claims:
        keys = [figure["key"] for figure in claim["figures"]]
        assert len(set(keys)) == len(keys), claim["id"]
        assert {check["figure"] for check in claim["checks"]} <= set(keys), claim["id"]


def test_the_committed_drawings_have_a_value_for_every_point_and_column():
    for each in committed()["experiments"]:
        for curve in each["curves"]:
            for series in curve["series"]:
                sizes = {len(series[name]) for name in ("x", "y", "low", "high") if series[name] is not None}
                assert len(sizes) == 1, curve["id"]
        for table in each["tables"]:
            assert all(list(row) == [column["key"] for column in table["columns"]] for row in table["rows"])


def test_the_committed_verdicts_are_those_of_their_checks():
    for each in committed()["experiments"]:
        for claim in each["claims"]:
            failed = not all(check["holds"] for check in claim["checks"])
            assert (claim["verdict"]["kind"] == "does not hold") == failed, claim["id"]
            assert claim["verdict"]["words"].startswith(claim["verdict"]["kind"]), claim["id"]


def test_people_read_what_the_lesson_says_and_how_it_ends():
    told = {"title": "T", "seconds": 1, "claims": [{"lesson": "L.", "verdict": {"words": "holds"}, "remark": "R."}]}
    assert lines(told) == ["T (1 s)", "  L.", "    holds", "    R."]
