"""The committed verdicts on runs that ran, and the errors of their process memory."""

import json
from statistics import median

from validation.published.results import RESULTS
from validation.published.verdicts import NEAR, PROCESS_MEMORY, counts, near_limit, process_memory

COMMITTED = json.loads(RESULTS.read_text(encoding="utf-8"))
EMPTY = dict.fromkeys(("error", "rule_bytes", "minimum_bytes", "verdict"))
ROWS = [{**EMPTY, **row} for row in COMMITTED["rows"]]
LINES = {(line["source"], line["method"]): line for line in COMMITTED["process_memory"]}


def test_no_run_that_ran_is_answered_does_not_fit():
    answered = [row for row in ROWS if row["verdict"]]
    assert len(answered) > 150
    assert [row["id"] for row in answered if row["verdict"] == "does_not_fit"] == []
    assert counts(ROWS) == COMMITTED["verdicts"]


def test_every_run_on_a_known_gpu_has_a_verdict():
    for row in ROWS:
        trains = row["expressed"] != "not" and row.get("protocol") != "logits"
        on_gpu = trains and "gpu" in row["request"].get("device", {})
        assert (row["verdict"] is not None) == (on_gpu and "measured_bytes" in row), row["id"]


def test_runs_near_their_gpus_limit_are_listed_the_fullest_first():
    listed = COMMITTED["near_limit"]
    assert listed == {"share": NEAR, "rows": [row["id"] for row in near_limit(ROWS)]}
    full = [row for row in ROWS if row["verdict"] and row["statistic"] in PROCESS_MEMORY]
    assert {row["id"] for row in full if row["measured_bytes"] >= NEAR * row["usable_bytes"]} <= {*listed["rows"]}
    assert listed["rows"]


def test_process_memory_is_summarized_from_its_rows():
    assert process_memory(ROWS) == COMMITTED["process_memory"]


def test_the_replay_is_closer_than_the_rule_to_process_memory_of_every_method():
    for line in LINES.values():
        assert line["replay"]["median_absolute_error"] < line["rule"]["median_absolute_error"]
    assert (
        LINES["fms_acceleration", "all"]["replay"]["median_absolute_error"] < 0.028
    )  # of 58 figures, four of them with foreign memory
    assert LINES["peft_metamathqa", "all"]["replay"]["median_absolute_error"] < 0.002


def test_readings_of_runs_with_transformers_own_code_are_within_one_and_a_half_per_cent_in_the_median():
    readings = [row for row in ROWS if row["statistic"] == "nvidia_smi" and row["expressed"] == "whole"]
    errors = [abs(row["error"]) for row in readings if "protocol" not in row and "baseline" not in row["setting"]]
    assert len(errors) == 27
    assert median(errors) < 0.015


def test_readings_of_runs_without_the_logits_of_all_tokens_are_within_eleven_per_mille():
    fused = [row for row in ROWS if row.get("protocol") == "fast_kernels_and_fused_head"]
    errors = [abs(row["error"]) for row in fused if row["statistic"] == "nvidia_smi" and row["expressed"] == "whole"]
    assert len(errors) == 3
    assert max(errors) < 0.011
