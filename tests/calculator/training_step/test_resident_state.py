from dataclasses import replace

import pytest

from calculator.common.errors import PlanError
from calculator.estimate.estimate import estimate, model_of
from calculator.estimate.request import parse_request
from calculator.estimate.series import SeriesCache
from calculator.limits.sweep import answers, parse_sweep
from tests.calculator.random_plans import plans

LORA = {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "lora"}}
GRID = {
    "method.name": ["lora", "qlora", "full"],
    "training.dtype": ["bfloat16", "float32"],
    "training.optimizer": ["adamw_torch", "adafactor"],
    "training.micro_batch_size": [1, 4],
}


def test_a_point_of_a_sweep_is_answered_as_by_itself():
    sweep = parse_sweep({"request": {"model": LORA["model"], "method": {"name": "lora"}}, "grid": GRID})
    for swept in answers(sweep):
        assert swept.estimate == estimate(parse_request(sweep.body(swept.point))), swept.point


def test_answers_do_not_depend_on_the_plan_before():
    neighbours = SeriesCache()
    for request in plans(8, 30):
        assert estimate(request, neighbours) == estimate(request)


def test_a_config_that_python_takes_for_equal_is_read_for_itself():
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    config = {"model_type": "llama", "num_attention_heads": 2, **dict.fromkeys(sizes, 16)}
    right, wrong = (
        parse_request({"model": {"config": {**config, "tie_word_embeddings": tied}}, "method": {"name": "lora"}})
        for tied in (True, 1)
    )
    assert right == wrong
    neighbours = SeriesCache()
    estimate(right, neighbours)
    with pytest.raises(PlanError, match="true or false"):
        estimate(wrong, neighbours)


def test_what_is_held_is_worked_out_again_only_where_a_plan_differs_in_it():
    request, neighbours = parse_request(LORA), SeriesCache()
    model = neighbours.model_of(request.model, model_of)
    held = neighbours.held_by(model, request.method, request.training)
    longer = replace(request.training, sequence_length=64, micro_batch_size=7)
    assert neighbours.held_by(model, request.method, longer) is held
    wider = replace(request.method, r=64)
    assert neighbours.held_by(model, wider, longer) is not held
    assert neighbours.held_by(model, wider, replace(longer, dtype="float32")).state[0].dtype == "float32"
