"""The recorded peaks of initializing adapters are those of PEFT's get_peft_model on the meta device."""

import json

import pytest

from calculator.run.request import parse_run
from tests.paths import CASE_FILES
from validation.tracing.initialization import trace_initialization

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

LINES = (CASE_FILES / "run" / "loading.jsonl").read_text().splitlines()
RECORDED = [case for case in map(json.loads, LINES) if "init_lora_weights" in case["request"]["method"]]


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["request"]["method"]["init_lora_weights"])
def test_a_recorded_peak_is_that_of_peft(case):
    assert trace_initialization(parse_run(case["request"]).estimate) == case["load_bytes"]
