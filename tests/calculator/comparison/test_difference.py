"""The differences between plans are exact to the byte, and what is the same is not shown."""

from calculator.comparison.plans import component_lines, setting_lines
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

ONE = {"model": "meta-llama/Llama-3.1-8B", "method": {"name": "lora", "r": 16}, "device": {"gpu": "rtx-4090"}}
TWO = {**ONE, "method": {"name": "qlora", "r": 16}, "training": {"micro_batch_size": 4}}
THREE = {**ONE, "method": {"name": "full"}, "training": {"optimizer": "sgd"}}


def requests(*bodies):
    return [parse_request(body) for body in bodies]


def test_only_settings_that_differ_are_listed_and_one_that_a_method_lacks_is_none():
    lines = {line.path: line.values for line in setting_lines(requests(ONE, TWO))}
    assert lines["method.name"] == ("lora", "qlora")
    assert lines["method.quant_type"] == (None, "nf4")
    assert lines["training.micro_batch_size"] == (1, 4)
    assert "method.r" not in lines
    assert "device.gpu" not in lines
    assert setting_lines(requests(ONE, ONE)) == ()


def test_components_and_rows_sum_to_each_plans_peak():
    plans = [estimate(request) for request in requests(ONE, TWO, THREE)]
    lines = component_lines(plans)
    for place, plan in enumerate(plans):
        assert sum(line.bytes[place] for line in lines) == plan.memory.peak_allocated_bytes


def test_the_rows_of_a_component_explain_its_difference():
    plans = [estimate(request) for request in requests(ONE, TWO, THREE)]
    for line in component_lines(plans):
        for place in (1, 2):
            explained = sum(row.bytes[place] - row.bytes[0] for row in line.rows)
            assert explained == line.bytes[place] - line.bytes[0], line.name
        for row in line.rows:
            assert len(set(row.bytes)) > 1


def test_the_same_plan_has_components_and_no_rows():
    plans = [estimate(request) for request in requests(ONE, ONE)]
    assert [line.rows for line in component_lines(plans)] == [()] * len(plans[0].memory.components)
