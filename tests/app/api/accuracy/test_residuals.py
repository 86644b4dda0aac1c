"""Residuals are errors of figures whose run a request describes completely: published ones and our own."""

import json

from app.api.accuracy import results
from app.api.accuracy.residuals import OTHER_CODE, STATISTICS, errors_by_statistic, residuals

STEP = {
    "name": "a step",
    "request": {"method": {"name": "lora", "use_dora": True}},
    "predicted": {"peak_allocated": 90, "library_workspace": 9, "reserved_replay": 120, "required": 200},
    "measured": {"peak_allocated": 100, "peak_reserved": 100, "driver": 250},
    "out_of_memory": None,
}


def test_every_published_figure_of_a_complete_request_is_a_residual():
    complete = [row for row in results.published()["rows"] if row["expressed"] == "whole" and "error" in row]
    training_runs = [row for row in complete if row.get("protocol") not in OTHER_CODE]
    assert sorted(residual.error for residual in residuals()) == sorted(row["error"] for row in training_runs)


def test_runs_with_other_kernels_and_passes_without_training_are_no_residuals():
    protocols = [row.get("protocol") for row in results.published()["rows"] if row["expressed"] == "whole"]
    assert all(protocols.count(name) for name in OTHER_CODE)
    of_lora = [
        residual.error for residual in residuals() if (residual.method, residual.statistic) == ("lora", "nvidia_smi")
    ]
    assert -0.05 < min(of_lora) < max(of_lora) < 0.01


def test_our_own_measurements_are_residuals_too(monkeypatch, tmp_path):
    contents = {"environment": {"device": "a GPU", "driver": "1"}, "layers": [], "verdicts": []}
    (tmp_path / "card.json").write_text(json.dumps({**contents, "steps": [STEP, {**STEP, "measured": None}]}))
    monkeypatch.setattr(results, "published", lambda: None)
    monkeypatch.setattr(results, "measured", lambda: (json.loads((tmp_path / "card.json").read_text()),))
    assert [(residual.method, residual.statistic, residual.error) for residual in residuals()] == [
        ("dora", "max_memory_allocated", -0.01),
        ("dora", "max_memory_reserved", 0.2),
        ("dora", "nvidia_smi", -0.2),
    ]


def test_errors_are_grouped_by_statistic_in_order():
    errors = errors_by_statistic(residuals())
    assert [error.statistic for error in errors] == list(STATISTICS)
    assert all(error.lowest_error <= error.highest_error for error in errors)
