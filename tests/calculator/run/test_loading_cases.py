"""The peaks of sharding a model, and of gathering a full state dict, equal traces of the libraries."""

import json

import pytest

from calculator.run.request import parse_run
from calculator.run.run import whole_run
from tests.paths import CASE_FILES

RECORDED = [json.loads(line) for line in (CASE_FILES / "run" / "loading.jsonl").read_text().splitlines()]


def added(phase):
    return phase.gpu_bytes - phase.resident_bytes


@pytest.mark.parametrize(
    "case", RECORDED, ids=lambda case: f"{case['request']['device']['sharding']}-{case['request']['method']['name']}"
)
def test_peaks_equal_the_trace_to_the_byte(case):
    phases = {phase.name: phase for phase in whole_run(parse_run(case["request"])).phases}
    if "load" in phases and case["load_bytes"]:
        assert phases["load"].gpu_bytes == case["load_bytes"] == sum(row.bytes for row in phases["load"].rows)
    if "checkpoint" in phases:
        assert added(phases["checkpoint"]) == case["gathered_bytes"]
