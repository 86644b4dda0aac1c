"""The committed results are those that the command computes, and errors are computed from their bytes."""

import json
from statistics import median

import pytest

from validation.published.report import lines
from validation.published.results import GROUPS, RESULTS, document, read, result, summary, with_other_rows, write
from validation.published.rules import measurements

COMMITTED = json.loads(RESULTS.read_text(encoding="utf-8"))
ROWS = {row["id"]: row for row in COMMITTED["rows"]}
SAMPLE = [
    "fms_acceleration/8/max_memory_allocated",
    "fms_acceleration/32/nvidia_smi",
    "fsdp_qlora/2419/forward",
    "litgpt/1351/max_memory_allocated",
    "peft_metamathqa/38/max_memory_reserved",
    "several_gpus/172/max_memory_allocated",
    "vramcalc/16/max_memory_allocated",
]


def filled(row):
    return {key: value for key, value in row.items() if value not in (None, "", [], {})}


def test_the_committed_file_has_every_figure_in_order():
    assert [row["id"] for row in COMMITTED["rows"]] == [measurement.id for measurement in measurements()]


@pytest.mark.parametrize("name", SAMPLE)
def test_a_committed_row_equals_the_commands_result(name):
    measurement = next(measurement for measurement in measurements() if measurement.id == name)
    assert filled(result(measurement)) == ROWS[name]


def test_every_error_is_computed_from_its_rows_bytes():
    for row in COMMITTED["rows"]:
        if "error" in row:
            assert row["error"] == round(row["predicted_bytes"] / row["measured_bytes"] - 1, 6)


def test_peaks_of_the_optimizers_step_under_fsdp_are_within_a_hundred_thousandth():
    several = [row for name, row in ROWS.items() if name.startswith("several_gpus/") and "error" in row]
    sharded = [row for row in several if row["statistic"] == "max_memory_allocated"]
    assert {row["phase"] for row in sharded} == {"optimizer_step"}
    assert len(sharded) == 10
    assert max(abs(row["error"]) for row in sharded) < 2e-5


def test_torchtitan_reserves_a_little_more_under_fsdp_than_the_replay_of_accelerates_wrapping():
    errors = {name: ROWS[f"several_gpus/{name}/max_memory_reserved"]["error"] for name in (297, 303)}
    assert errors == {297: -0.064949, 303: -0.071657}


def test_the_figures_that_are_expressed_as_a_whole():
    whole = [row for row in COMMITTED["rows"] if row["expressed"] == "whole" and "error" in row]
    assert len(whole) == 521
    assert {row["protocol"] for row in whole if "protocol" in row} == {
        "buckets",
        "buckets_after_loss",
        "buckets_after_loss_of_base",
        "fast_kernels",
        "fast_kernels_and_fused_head",
        "logits",
        "mean_of_logits",
        "output_in_backward",
        "output_of_pass",
    }


def test_memory_between_steps_is_within_two_ten_thousandths():
    rows = [row for row in COMMITTED["rows"] if row.get("point") == "between_steps" and row["expressed"] == "whole"]
    assert len(rows) >= 50
    assert max(abs(row["error"]) for row in rows) < 2e-4


def test_memory_after_a_step_of_the_method_comparison_is_within_a_quarter_per_cent():
    rows = [row for row in COMMITTED["rows"] if row.get("point") == "after_step" and row["expressed"] == "whole"]
    off = {row["method"] for row in rows if abs(row["error"]) >= 0.0025}
    assert len(rows) > 50
    assert off == {"psoft", "randlora"}
    assert {row["method"] for row in rows if row["error"] > 0} == {"adalora"}


def test_every_row_has_an_address_and_the_differences_if_it_is_not_whole():
    for row in COMMITTED["rows"]:
        assert row["address"].startswith("https://")
        assert row["expressed"] == "whole" or row["differs"], row["id"]


def test_the_median_error_of_rows_expressed_as_a_whole_is_under_one_per_cent():
    whole = [abs(row["error"]) for row in COMMITTED["rows"] if row["expressed"] == "whole" and "error" in row]
    assert COMMITTED["summary"][0]["median_absolute_error"] == round(median(whole), 6)
    assert median(whole) < 0.01


def test_the_summary_is_computed_from_the_rows():
    assert summary(read(RESULTS)) == COMMITTED["summary"]
    assert {line["by"] for line in COMMITTED["summary"]} == {"all", *GROUPS}


def test_a_written_file_contains_what_was_computed(tmp_path):
    rows = [result(measurement) for measurement in measurements() if measurement.id in SAMPLE[:2]]
    results = document(rows, "2026-01-02")
    file = tmp_path / "results" / "published.json"
    write(results, file)
    first = file.read_text(encoding="utf-8")
    write(document(read(file), "2026-01-02"), file)
    assert file.read_text(encoding="utf-8") == first
    assert json.loads(first)["rows"] == [filled(row) for row in results["rows"]]
    assert [path.name for path in file.parent.iterdir()] == ["published.json"]


def test_rows_of_other_sources_stay_when_some_are_written(tmp_path):
    file = tmp_path / "published.json"
    write({"rows": [{**row, "remark": "older"} for row in read(RESULTS)], "date": "2026-01-01"}, file)
    new = [{**row, "remark": "new"} for row in read(RESULTS) if row["source"] == "fms_acceleration"]
    merged = with_other_rows(new, file)
    assert [row["id"] for row in merged] == [row["id"] for row in COMMITTED["rows"]]
    assert {row["source"] for row in merged if row["remark"] == "new"} == {"fms_acceleration"}
    assert {row["remark"] for row in merged if row["source"] != "fms_acceleration"} == {"older"}
    assert summary(merged) == COMMITTED["summary"]


def test_a_new_file_has_the_rows_that_were_computed(tmp_path):
    rows = read(RESULTS)[:3]
    assert with_other_rows(rows, tmp_path / "published.json") == rows


def test_the_tables_name_the_worst_rows_and_the_differences():
    selected = [
        measurement
        for measurement in measurements()
        if measurement.source in ("fsdp_qlora", "litgpt", "peft_metamathqa")
    ]
    rows = [result(measurement) for measurement in selected[:5] + [e for e in selected if e.id in SAMPLE]]
    text = "\n".join(lines(document(rows, "2026-01-02"), worst=4))
    assert "peft_metamathqa/38/max_memory_reserved: prefix" in text
    assert "evaluation" in text
    assert "litgpt: " in text
