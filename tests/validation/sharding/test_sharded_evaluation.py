"""The recorded peaks of evaluations on several GPUs are those of the real Trainer."""

import json

import pytest

from calculator.run.request import parse_run
from tests.paths import CASE_FILES
from validation.sharding.evaluation import trace_sharded_evaluation

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("device", [{"count": 8, "sharding": "ddp"}, {"count": 4, "sharding": "fsdp"}])
def test_the_trainers_evaluation_on_one_of_several_gpus_has_the_recorded_peak(device):
    recorded = map(json.loads, (CASE_FILES / "run" / "evaluation.jsonl").read_text().splitlines())
    case = next(case for case in recorded if case["request"].get("device") == device)
    body = {name: value for name, value in case["request"].items() if name not in ("run", "reserved")}
    traced = trace_sharded_evaluation(body, parse_run(case["request"]).run)
    assert (traced.resident_bytes, traced.peak_bytes) == (case["resident_bytes"], case["peak_bytes"])
