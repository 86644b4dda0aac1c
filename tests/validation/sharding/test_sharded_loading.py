"""The recorded peaks of sharding a model are those of the libraries."""

import json

import pytest

from tests.paths import CASE_FILES
from validation.sharding.loading import trace_sharding

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]


def test_sharding_a_model_and_gathering_its_weights_have_the_recorded_peaks():
    case = json.loads((CASE_FILES / "run" / "loading.jsonl").read_text().splitlines()[1])
    body = {name: value for name, value in case["request"].items() if name not in ("run", "reserved")}
    assert trace_sharding(body) == (case["load_bytes"], case["gathered_bytes"])


def test_broadcasting_the_weights_of_a_model_has_the_recorded_peak():
    recorded = map(json.loads, (CASE_FILES / "run" / "loading.jsonl").read_text().splitlines())
    broadcast = (recording for recording in recorded if "cpu_ram_efficient_loading" in json.dumps(recording["request"]))
    case = next(recording for recording in broadcast if recording["request"]["method"]["name"] == "adapter")
    body = {name: value for name, value in case["request"].items() if name not in ("run", "reserved")}
    assert trace_sharding(body)[0] == case["load_bytes"]


def test_the_weights_that_zero_3_gathers_for_a_checkpoint_have_the_recorded_peak():
    pytest.importorskip("deepspeed", reason="DeepSpeed is an optional extra")
    recorded = map(json.loads, (CASE_FILES / "run" / "loading.jsonl").read_text().splitlines())
    case = next(case for case in recorded if case["request"]["device"]["sharding"] == "zero3")
    body = {name: value for name, value in case["request"].items() if name not in ("run", "reserved")}
    assert trace_sharding(body)[1] == case["gathered_bytes"]


def test_a_model_that_is_built_and_filled_under_zero_init_has_the_recorded_peak():
    pytest.importorskip("deepspeed", reason="DeepSpeed is an optional extra")
    recorded = map(json.loads, (CASE_FILES / "run" / "loading.jsonl").read_text().splitlines())
    requests = [case for case in recorded if case["request"]["device"]["sharding"] == "zero3"]
    case = next(case for case in requests[::-1] if case["request"]["model"]["config"].get("tie_word_embeddings"))
    body = {name: value for name, value in case["request"].items() if name not in ("run", "reserved")}
    assert trace_sharding(body)[0] == case["load_bytes"]
