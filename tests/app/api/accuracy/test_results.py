"""Committed results are read from one folder; missing results are missing, not invented."""

import json

from app.api.accuracy import results


def test_the_published_results_are_found_in_a_clone():
    assert results.published()["rows"]
    assert results.lesson()["experiments"]


def test_a_folder_without_results_has_none(tmp_path):
    assert results.published(tmp_path) is None
    assert results.lesson(tmp_path) is None
    assert results.measured(tmp_path) == ()


def test_only_files_of_a_cuda_device_are_measurements(tmp_path):
    for name, driver in (("cpu", None), ("l40s", "580.65")):
        contents = {"environment": {"device": name, "driver": driver}, "layers": [], "steps": [], "verdicts": []}
        (tmp_path / f"{name}.json").write_text(json.dumps(contents))
    (tmp_path / "published.json").write_text(json.dumps({"rows": []}))
    assert [contents["environment"]["device"] for contents in results.measured(tmp_path)] == ["l40s"]
