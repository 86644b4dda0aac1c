import json
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator

import validation.prove
from validation.__main__ import main
from validation.prove.command import NAMES, lines
from validation.prove.results import RESULTS, AnotherEnvironmentError, document, recorded, write
from validation.prove.running import experiment, run_experiments

SCHEMA = json.loads((Path(validation.prove.__file__).parent / "schema.json").read_text())

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_quick_run_writes_a_valid_file_with_write(tmp_path, capsys):
    path = tmp_path / "lesson.json"
    assert main(["prove", "identity", "--quick", "--device", "cpu", "--write", str(path)]) == 0
    results = json.loads(path.read_text())
    Draft202012Validator(SCHEMA).validate(results)
    assert [experiment["name"] for experiment in results["experiments"]] == ["identity"]
    assert "Identity at initialization" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["levitation"], "NAME levitation: no such experiment; choose from identity"),
        (["identity", "--threads", "0"], "--threads 0: use 1 or more"),
        (["identity", "--device", "abacus"], "--device abacus: torch"),
        (["identity", "--device", "cuda:99"], "has no such device; it has cpu"),
    ],
)
def test_an_unknown_name_or_device_is_wrong_usage(arguments, message, capsys):
    assert main(["prove", *arguments]) == 2
    assert message in capsys.readouterr().err


def without_timings(results):
    """An experiment's results without timings."""
    claims = [{**claim, "figures": [f for f in claim["figures"] if not f["timing"]]} for claim in results["claims"]]
    return {**results, "seconds": 0, "claims": claims}


def test_another_run_gives_the_same_results():
    names = ("identity", "merging", "nf4")
    first, second = (
        [without_timings(experiment) for experiment in run_experiments(names, torch.device("cpu"), quick=True)]
        for _ in "ab"
    )
    assert first == second


def test_every_experiment_has_its_modules_name_and_no_more_steps_if_quick():
    found = [experiment(name) for name in NAMES]
    assert tuple(experiment.name for experiment in found) == NAMES
    assert [experiment.name for experiment in found if experiment.steps(True) > experiment.steps(False)] == []


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
    kept = recorded(path, ENVIRONMENT | {"date": "2031-01-01"}, quick=False)
    results = document(ENVIRONMENT, [*kept, {"name": "b", "seconds": 2}], "ab", quick=False)
    assert results["experiments"] == [{"name": "a"}, {"name": "b", "seconds": 2}]


@pytest.mark.parametrize(("change", "quick"), [({"cpu": "y"}, False), ({}, True)])
def test_a_file_of_another_environment_is_not_extended(tmp_path, change, quick):
    path = tmp_path / "lesson.json"
    write(document(ENVIRONMENT, [], "ab", quick=False), path)
    with pytest.raises(AnotherEnvironmentError, match=r"differs.*run every experiment, or name another file"):
        recorded(path, ENVIRONMENT | change, quick=quick)


def test_a_written_file_contains_the_results(tmp_path):
    results = document(ENVIRONMENT, [{"name": "a", "claims": [{"x": [0.5] * 99, "y": "é" * 99}, []]}], "a", quick=False)
    write(results, tmp_path / "lesson.json")
    assert json.loads((tmp_path / "lesson.json").read_text()) == results


def committed():
    return json.loads(RESULTS.read_text())


def test_the_committed_results_are_complete_and_valid():
    results = committed()
    Draft202012Validator(SCHEMA).validate(results)
    assert not results["quick"]
    assert tuple(experiment["name"] for experiment in results["experiments"]) == NAMES


def test_the_committed_ids_are_unique_and_every_check_is_of_a_figure():
    claims = [claim for experiment in committed()["experiments"] for claim in experiment["claims"]]
    drawn = [
        drawing
        for experiment in committed()["experiments"]
        for drawing in (*experiment["curves"], *experiment["tables"])
    ]
    for ids in ([claim["id"] for claim in claims], [drawing["id"] for drawing in drawn]):
        assert len(set(ids)) == len(ids)
    for claim in claims:
        keys = [figure["key"] for figure in claim["figures"]]
        assert len(set(keys)) == len(keys), claim["id"]
        assert {check["figure"] for check in claim["checks"]} <= set(keys), claim["id"]


def test_the_committed_drawings_have_a_value_for_every_point_and_column():
    for result in committed()["experiments"]:
        for curve in result["curves"]:
            for series in curve["series"]:
                sizes = {len(series[name]) for name in ("x", "y", "low", "high") if series[name] is not None}
                assert len(sizes) == 1, curve["id"]
        for table in result["tables"]:
            assert all(list(row) == [column["key"] for column in table["columns"]] for row in table["rows"])


def test_the_committed_verdicts_are_those_of_their_checks():
    for result in committed()["experiments"]:
        for claim in result["claims"]:
            failed = not all(check["holds"] for check in claim["checks"])
            assert (claim["verdict"]["kind"] == "does not hold") == failed, claim["id"]
            assert claim["verdict"]["words"].startswith(claim["verdict"]["kind"]), claim["id"]


def test_an_experiment_is_printed_with_its_claims_and_verdicts():
    results = {"title": "T", "seconds": 1, "claims": [{"lesson": "L.", "verdict": {"words": "holds"}, "remark": "R."}]}
    assert lines(results) == ["T (1 s)", "  L.", "    holds", "    R."]
