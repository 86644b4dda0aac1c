"""Predictions of published figures are the calculator's, with named adjustments."""

import pytest

from calculator.estimate import estimate
from calculator.request import parse_request
from validation.published.prediction import predicted
from validation.published.rules import measurements

MEASURED = {each.id: each for each in measurements()}


def test_an_allocated_peak_counts_library_workspaces():
    each = MEASURED["fms_acceleration/8/max_memory_allocated"]
    memory = estimate(parse_request(each.run.request)).memory
    assert predicted(each).bytes == memory.peak_allocated_bytes + memory.library_workspace_bytes


def test_what_nvidia_smi_shows_is_what_is_required_with_a_replayed_allocator():
    each = MEASURED["fms_acceleration/156/nvidia_smi"]
    memory = estimate(parse_request({**each.run.request, "reserved": "replay"})).memory
    assert predicted(each).bytes == memory.required_bytes


def test_held_logits_are_an_adjustment_of_the_peak_and_not_of_what_stays():
    peak = predicted(MEASURED["fms_acceleration/32/max_memory_allocated"])
    without = predicted(MEASURED["fms_acceleration/156/max_memory_allocated"])
    assert peak.bytes - without.bytes == sum(a.bytes for a in peak.adjustments) == 4 * 4096 * 32000 * 2
    assert predicted(MEASURED["fms_acceleration/32/between_steps"]).adjustments == ()


def test_rotary_tables_of_every_layer_are_the_models_positions():
    (tables,) = predicted(MEASURED["fms_acceleration/561/between_steps"]).adjustments
    assert tables.bytes == 32 * 2 * 32768 * 128 * 2


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("fms_acceleration/8/max_memory_allocated", 1e-5),
        ("fms_acceleration/8/between_steps", 2e-5),
        ("fms_acceleration/156/max_memory_allocated", 6e-3),
        ("fms_acceleration/156/between_steps", 4e-5),
        ("fms_acceleration/561/max_memory_allocated", 2e-5),
        ("peft_metamathqa/29/max_memory_reserved", 2e-3),
        ("peft_metamathqa/26/max_memory_reserved", 2e-3),
        ("peft_metamathqa/13/max_memory_reserved", 4e-2),
        ("peft_metamathqa/38/max_memory_reserved", 4e-2),
        ("peft_metamathqa/39/max_memory_reserved", 1e-2),
    ],
)
def test_figures_that_were_measured_are_met(name, most):
    each = MEASURED[name]
    assert abs(predicted(each).bytes / each.bytes - 1) < most
