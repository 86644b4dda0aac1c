"""The peaks of evaluation, generation and merging equal traces of the real Trainer, of `generate` and of PEFT."""

import json

import pytest

from calculator.run.request import parse_run
from calculator.run.run import whole_run
from tests.paths import CASE_FILES

RECORDED, MERGES = (
    [json.loads(line) for line in (CASE_FILES / "run" / f"{name}.jsonl").read_text().splitlines()]
    for name in ("evaluation", "merge")
)


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: f"{case['phase']}-{case['request']['method']['name']}")
def test_peaks_equal_the_trace_to_the_byte(case):
    answer = whole_run(parse_run(case["request"]))
    phase = next(phase for phase in answer.phases if phase.name == case["phase"])
    assert phase.resident_bytes == case["resident_bytes"]
    assert phase.gpu_bytes == case["peak_bytes"]
    assert sum(row.bytes for row in phase.rows) == phase.gpu_bytes - phase.resident_bytes


@pytest.mark.parametrize("case", MERGES, ids=lambda case: case["request"]["method"]["name"])
def test_merging_adds_what_the_trace_of_peft_adds(case):
    merge = whole_run(parse_run(case["request"])).phases[-1]
    assert merge.name == "merge"
    assert merge.gpu_bytes - merge.resident_bytes == case["peak_bytes"] == sum(row.bytes for row in merge.rows)


def test_steps_after_generation_keep_rope_deltas_of_its_last_batch():
    request = next(case["request"] for case in RECORDED if "qwen2_5_vl" in json.dumps(case["request"]))
    runs = (request["run"], {"save_strategy": "no"})
    phases = [whole_run(parse_run({**request, "run": run})).phases for run in runs]
    steps = [next(phase.gpu_bytes for phase in of_run if phase.name == "training_step") for of_run in phases]
    assert steps == [5_287_424, 5_286_912]  # both traced
