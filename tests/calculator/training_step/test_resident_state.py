from dataclasses import replace

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, resident_state
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from calculator.inputs.device import Device
from calculator.limit_search.sweep import answers, parse_sweep
from tests.calculator.random_plans import plans

LORA = {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "lora"}}
GRID = {
    "method.name": ["lora", "qlora", "full"],
    "training.dtype": ["bfloat16", "float32"],
    "training.optimizer": ["adamw_torch", "adafactor"],
    "training.micro_batch_size": [1, 4],
}


def test_a_point_of_a_sweep_has_the_answer_of_a_single_request():
    sweep = parse_sweep({"request": {"model": LORA["model"], "method": {"name": "lora"}}, "grid": GRID})
    for swept in answers(sweep):
        assert swept.estimate == estimate(parse_request(sweep.body(swept.point)), SeriesCache()), swept.point


def test_answers_do_not_depend_on_the_plan_before():
    series = SeriesCache()
    for request in plans(8, 10):
        assert estimate(request, series) == estimate(request, SeriesCache())


def test_equal_configs_of_other_types_are_read_separately():
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    config = {"model_type": "llama", "num_attention_heads": 2, **dict.fromkeys(sizes, 16)}
    right, wrong = (
        parse_request({"model": {"config": {**config, "tie_word_embeddings": tied}}, "method": {"name": "lora"}})
        for tied in (True, 1)
    )
    assert right == wrong
    series = SeriesCache()
    estimate(right, series)
    with pytest.raises(PlanError, match="true or false"):
        estimate(wrong, series)


def test_resident_tensors_are_shared_until_a_request_changes_them():
    request, series = parse_request(LORA), SeriesCache()
    first = resident_state(request, series)
    longer = replace(request.training, sequence_length=64, micro_batch_size=7)
    request = replace(request, training=longer, device=Device(gpu="t4"))
    second = resident_state(request, series)
    assert second.tensors is first.tensors
    assert (second.prepared.training, second.prepared.device) == (longer, Device(gpu="t4"))
    request = replace(request, method=replace(request.method, r=64))
    assert resident_state(request, series).tensors is not first.tensors
    request = replace(request, training=replace(longer, dtype="float32"))
    assert resident_state(request, series).tensors[0].dtype == "float32"


def test_the_memory_of_training_is_computed_once_for_a_series():
    request, series = parse_request(LORA), SeriesCache()
    states = resident_state(request, series).optimizer_states
    longer = replace(request, training=replace(request.training, sequence_length=64))
    assert resident_state(longer, series).optimizer_states is states
