"""Predictions of published figures are the calculator's own estimates."""

import json

import pytest

from calculator.devices import cuda_context
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from validation.published.prediction import predicted
from validation.published.results import RESULTS
from validation.published.rules import measurements

MEASURED = {measurement.id: measurement for measurement in measurements()}
#: The committed results; test_published_results.py computes some of them again.
ROWS = {row["id"]: row for row in json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]}


def test_an_allocated_peak_includes_library_workspaces():
    measurement = MEASURED["fms_acceleration/8/max_memory_allocated"]
    memory = estimate(parse_request(measurement.run.request)).memory
    prediction = predicted(measurement)
    assert prediction.phase == memory.peak_phase == "optimizer_step"
    assert prediction.bytes == memory.peak_allocated_bytes + memory.library_workspace_bytes


def test_the_reading_of_nvidia_smi_is_the_replays_reserved_bytes_and_the_context():
    prediction = predicted(MEASURED["fms_acceleration/156/nvidia_smi"])
    assert (prediction.bytes - cuda_context(None).bytes) % (2 << 20) == 0


def test_tables_of_all_positions_are_added_at_the_peak_and_between_steps():
    tables = 32 * 2 * 32768 * 128 * 2
    for point in ("max_memory_allocated", "between_steps"):
        older, newer = (predicted(MEASURED[f"fms_acceleration/{row}/{point}"]) for row in (561, 481))
        assert older.bytes - newer.bytes == tables


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("fms_acceleration/8/max_memory_allocated", 1e-5),
        ("fms_acceleration/8/between_steps", 2e-5),
        ("fms_acceleration/32/max_memory_allocated", 6e-5),
        ("fms_acceleration/156/max_memory_allocated", 6e-5),
        ("fms_acceleration/398/max_memory_allocated", 6e-5),
        ("fms_acceleration/571/max_memory_allocated", 7e-5),
        ("fms_acceleration/504/between_steps", 1e-4),
        ("fms_acceleration/156/between_steps", 4e-5),
        ("fms_acceleration/561/max_memory_allocated", 2e-5),
        ("peft_metamathqa/29/max_memory_reserved", 2e-3),
        ("peft_metamathqa/26/max_memory_reserved", 2e-3),
        ("peft_metamathqa/18/max_memory_reserved", 2.5e-3),
        ("peft_metamathqa/19/max_memory_reserved", 4e-3),
        *((f"peft_metamathqa/{row}/max_memory_reserved", 4e-3) for row in (3, 8, 16, 17, 23, 24, 31, 32, 33, 34)),
        *((f"peft_metamathqa/{row}/max_memory_reserved", 4e-3) for row in (46, 47, 54, 57)),
        ("peft_metamathqa/43/max_memory_reserved", 3e-2),
        ("peft_metamathqa/13/max_memory_reserved", 4e-2),
        ("peft_metamathqa/147/max_memory_reserved", 5e-3),
        ("peft_metamathqa/39/max_memory_reserved", 1e-2),
    ],
)
def test_a_prediction_is_within_its_tolerance_of_the_measured_figure(name, tolerance):
    assert abs(ROWS[name]["predicted_bytes"] / MEASURED[name].bytes - 1) < tolerance
