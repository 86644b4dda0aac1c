"""Rules turn rows into requests, and name exactly what a request cannot express."""

import json
from functools import cache

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from validation.published.rules import RULES, measurements
from validation.published.source import sources


def by_id(name):
    return next(measurement for measurement in measurements() if measurement.id == name)


@cache
def trained_parameters(model_method_and_optimizer):
    """Parameters that a method trains; runs of several releases have the same."""
    model, method, optimizer = json.loads(model_method_and_optimizer)
    training = {"sequence_length": 64, "optimizer": optimizer}
    body = {"model": model, "method": method, "training": training, "reserved": "rule"}
    return estimate(parse_request(body)).parameters.trainable


def test_every_source_has_rules():
    assert set(RULES) == {source.name for source in sources()}


@pytest.mark.parametrize("source", sources(), ids=lambda source: source.name)
def test_every_row_of_a_source_has_a_figure(source):
    ids = {measurement.id.split("/")[1] for measurement in measurements() if measurement.source == source.name}
    assert ids == {str(row["id"]) for row in source.rows}


def test_a_figure_without_a_request_has_a_reason():
    assert [
        measurement.id
        for measurement in measurements()
        if measurement.run.request is None and not measurement.run.differs
    ] == []


def test_figures_have_unique_ids():
    assert len({measurement.id for measurement in measurements()}) == len(measurements())


def test_every_request_is_valid():
    for measurement in measurements():
        if measurement.run.request is not None:
            try:
                parse_request(measurement.run.request)
            except PlanError as error:
                pytest.fail(f"{measurement.id}: {error}")


def test_a_full_run_of_the_trainer_is_expressed_as_a_whole():
    measurement = by_id("fms_acceleration/8/max_memory_allocated")
    assert measurement.expressed == "whole"
    assert measurement.bytes == 72_434_837_504
    assert measurement.run.request["method"] == {"name": "full"}
    assert measurement.run.request["training"]["sequence_length"] == 4096


def test_fused_lora_of_4_bit_layers_is_expressed_by_the_protocol():
    in_step, at_rest = by_id("fms_acceleration/80/max_memory_allocated"), by_id("fms_acceleration/80/between_steps")
    assert (in_step.expressed, at_rest.expressed) == ("whole", "whole")
    assert in_step.run.protocol == at_rest.run.protocol == "fast_kernels"
    assert by_id("fms_acceleration/1013/nvidia_smi").run.protocol == "fast_kernels_and_fused_head"


def test_a_table_without_releases_assumes_the_newest_that_its_requirements_allow():
    measurement = by_id("fms_acceleration/661/max_memory_allocated")
    assert measurement.expressed == "whole"
    assert measurement.run.request["stack"]["transformers"] == "4.39.3"
    assert any("the newest of that day" in assumption for assumption in measurement.run.unknown)
    assert not by_id("fms_acceleration/8/max_memory_allocated").run.unknown


def test_runs_of_trl_before_its_own_loss_name_the_release():
    baseline = by_id("fms_acceleration/180/max_memory_allocated").run.request
    assert (baseline["training"]["trainer"], baseline["stack"]["trl"]) == ("trl-sft", "0.11.4")


def test_a_length_that_is_not_stated_leaves_the_figure_between_steps_alone():
    peak, at_rest = by_id("fms_acceleration/1227/max_memory_allocated"), by_id("fms_acceleration/1227/between_steps")
    assert (peak.expressed, at_rest.expressed) == ("not", "whole")
    assert "the longest sequence" in at_rest.run.unknown[0]


def test_runs_of_the_method_comparison_name_their_release_and_how_often_the_cache_is_emptied():
    rows = {
        measurement.id: measurement.run.request
        for measurement in measurements()
        if measurement.setting == "lora/llama-3.2-3B-rank32"
    }
    stated = {
        (request.get("stack", {}).get("transformers"), request["training"]["torch_empty_cache_steps"])
        for request in rows.values()
    }
    assert stated == {("4.52.4", 1), ("4.57.1", 10), (None, 10)}


def test_adapters_of_an_older_peft_have_the_models_dtype():
    older, newer = by_id("fms_acceleration/571/nvidia_smi"), by_id("fms_acceleration/493/nvidia_smi")
    assert older.run.request["training"]["adapter_dtype"] == "model"
    assert newer.run.request["training"]["adapter_dtype"] == "float32"


def test_a_method_that_the_calculator_does_not_have_is_not_expressed():
    rows = [
        measurement
        for measurement in measurements()
        if measurement.source == "peft_metamathqa" and measurement.method == "FROD"
    ]
    assert {row.expressed for row in rows} == {"not"}


def test_the_runs_of_further_methods_have_the_published_number_of_trained_parameters():
    rows = {f"peft_metamathqa/{row['id']}": row for source in sources() for row in source.rows if "peft_config" in row}
    checked = set()
    for measurement in measurements():
        if measurement.source == "peft_metamathqa" and measurement.point is None and measurement.expressed == "whole":
            optimizer = measurement.run.request["training"].get("optimizer", "adamw_torch")
            of = [measurement.run.request["model"], measurement.run.request["method"], optimizer]
            trained = trained_parameters(json.dumps(of))
            assert trained == rows[measurement.id.rpartition("/")[0]]["trainable_params"], measurement.id
            checked.add(measurement.run.request["method"]["name"])
    assert {"adalora", "beft", "miss", "boft", "shira", "oft", "p_tuning", "randlora", "vblora", "vera"} <= checked


def test_the_ia3_runs_have_the_published_number_of_trained_parameters():
    for number, trained in ((18, 630_784), (19, 286_720), (20, 286_720)):
        measurement = by_id(f"peft_metamathqa/{number}/max_memory_reserved")
        assert measurement.expressed == "whole"
        assert estimate(parse_request(measurement.run.request)).parameters.trainable == trained
