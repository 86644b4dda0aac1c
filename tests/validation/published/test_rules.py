"""Rows become requests by rule: what a request cannot say of a row is named, and nothing else is."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimate.request import parse_request
from validation.published.adjustments import ADJUSTMENTS
from validation.published.rules import RULES, measurements
from validation.published.source import sources


def by_id(name):
    return next(each for each in measurements() if each.id == name)


def test_every_source_has_its_rules():
    assert set(RULES) == {source.name for source in sources()}


@pytest.mark.parametrize("source", sources(), ids=lambda source: source.name)
def test_every_row_of_a_source_has_a_figure(source):
    told = {each.id.split("/")[1] for each in measurements() if each.source == source.name}
    assert told == {str(row["id"]) for row in source.rows}


def test_a_figure_without_a_request_says_what_differs():
    assert [each.id for each in measurements() if each.run.request is None and not each.run.differs] == []


def test_no_two_figures_have_the_same_id():
    assert len({each.id for each in measurements()}) == len(measurements())


def test_every_request_is_one_of_the_contract():
    for each in measurements():
        if each.run.request is not None:
            try:
                parse_request(each.run.request)
            except PlanError as error:
                pytest.fail(f"{each.id}: {error}")


def test_every_adjustment_is_a_known_one():
    assert {name for each in measurements() for name in each.run.adjustments} <= set(ADJUSTMENTS)


def test_a_full_run_of_the_trainer_is_said_whole():
    each = by_id("fms_acceleration/8/max_memory_allocated")
    assert each.expressed == "whole"
    assert each.bytes == 72_434_837_504
    assert each.run.request["method"] == {"name": "full"}
    assert each.run.request["training"]["sequence_length"] == 4096


def test_fused_kernels_are_named():
    each = by_id("fms_acceleration/36/max_memory_allocated")
    assert each.expressed == "in part"
    assert "fused kernels" in each.run.differs[0]


def test_adapters_of_an_older_peft_take_the_models_dtype():
    older, newer = by_id("fms_acceleration/571/nvidia_smi"), by_id("fms_acceleration/493/nvidia_smi")
    assert older.run.request["training"]["adapter_dtype"] == "model"
    assert newer.run.request["training"]["adapter_dtype"] == "float32"


def test_a_method_that_the_contract_lacks_is_not_expressed():
    told = [each for each in measurements() if each.source == "peft_metamathqa" and each.method == "IA3"]
    assert {each.expressed for each in told} == {"not"}
