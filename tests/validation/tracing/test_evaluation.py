"""The recorded peaks of evaluations are those of the real Trainer."""

import json

import pytest

from calculator.run.request import parse_run
from tests.paths import CASE_FILES
from validation.tracing.evaluation import trace_evaluation

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]


def test_the_trainers_evaluation_has_the_recorded_peak():
    case = json.loads((CASE_FILES / "run" / "evaluation.jsonl").read_text().splitlines()[2])
    body = {name: value for name, value in case["request"].items() if name not in ("run", "reserved")}
    traced = trace_evaluation(body, parse_run(case["request"]).run)
    assert (traced.resident_bytes, traced.peak_bytes) == (case["resident_bytes"], case["peak_bytes"])
