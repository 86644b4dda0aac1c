"""A grid of plans: every combination in order, and what is refused as a whole or point by point."""

from itertools import islice

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import MAX_DEPTH, parse_request
from calculator.limit_search import sweep
from calculator.limit_search.sweep import MAX_POINTS, answers, parse_sweep

REQUEST = {"model": "gpt2", "method": {"name": "lora"}, "device": {"gpu": "rtx-4090"}}

GPT2 = {"model_type": "gpt2", "vocab_size": 1000, "n_embd": 64, "n_head": 4}

BY_CONFIG = {**REQUEST, "model": {"config": GPT2}}


def parsed(grid, request=REQUEST, **more):
    return parse_sweep({"request": request, "grid": grid, **more})


def test_combinations_are_in_order_the_last_fields_values_fastest():
    parsed_sweep = parsed({"training.sequence_length": [64, 128], "method.r": [8, 4, 2]})
    assert parsed_sweep.count == 6
    assert [tuple(point.values()) for point in parsed_sweep.points()] == [
        (64, 8),
        (64, 4),
        (64, 2),
        (128, 8),
        (128, 4),
        (128, 2),
    ]


def test_a_points_answer_is_the_estimate_of_its_request():
    grid = {"training.sequence_length": [64, 128], "method.r": [8, 4]}
    for swept in answers(parsed(grid)):
        body = {
            **REQUEST,
            "reserved": "rule",
            "method": {"name": "lora", "r": swept.point["method.r"]},
            "training": {"sequence_length": swept.point["training.sequence_length"]},
        }
        assert swept.estimate == estimate(parse_request(body))


def test_the_request_itself_is_not_changed():
    request = {**REQUEST, "training": {"padding": True}}
    list(answers(parsed({"training.sequence_length": [64], "method.name": ["prompt"]}, request)))
    assert request == {**REQUEST, "training": {"padding": True}}


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("model", ["gpt2", {"parameters": 10}]),
        ("model.config.n_layer", [1, 2]),
        ("method", [{"name": "full"}, {"name": "lora", "r": 4}]),
        ("method.name", ["lora", "prompt"]),
        ("method.quant_type", ["nf4"]),
        ("device.memory_bytes", [1]),
        ("reserved", ["rule"]),
        ("training", [{"padding": True}]),
    ],
)
def test_any_field_may_have_a_list(path, values):
    request = {**REQUEST, "model": {"config": GPT2}} if path.startswith("model.") else REQUEST
    assert [swept.point for swept in answers(parsed({path: values}, request))] == [{path: value} for value in values]


def test_a_list_in_a_config_builds_each_model():
    parsed_sweep = parsed({"model.config.n_layer": [1, 2]}, {**REQUEST, "model": {"config": GPT2}})
    one, two = (swept.estimate.model.parameters for swept in answers(parsed_sweep))
    assert two - one == 12 * 64**2 + 13 * 64


def test_a_refused_point_is_a_row_and_the_next_is_answered():
    grid = {"method.name": ["lora", "prefix", "qlora"], "training.gradient_checkpointing": [True]}
    rows = list(answers(parsed(grid)))
    assert [row.estimate is None for row in rows] == [False, True, False]
    assert rows[1].problems[0].loc == "training.gradient_checkpointing"


def test_a_value_of_the_wrong_type_is_refused_in_its_rows():
    rows = list(answers(parsed({"method.r": ["many", 8]})))
    assert [(problem.loc, problem.msg) for problem in rows[0].problems] == [("method.r", "must be a whole number")]
    assert rows[1].estimate is not None


def test_points_are_answered_only_when_they_are_read(monkeypatch):
    requests = []
    monkeypatch.setattr(sweep, "estimate", lambda request, _: requests.append(request) or estimate(request))
    list(islice(answers(parsed({"method.r": list(range(1, 1001))})), 2))
    assert len(requests) == 2


@pytest.mark.parametrize(
    ("body", "loc", "message"),
    [
        ([], "", "must be an object"),
        ({"grid": {"method.r": [1]}}, "request", "an estimate's request"),
        ({"request": REQUEST}, "grid", "object of lists"),
        ({"request": REQUEST, "grid": {}}, "grid", "object of lists"),
        ({"request": REQUEST, "grid": {"method.r": [1]}, "limit": 3}, "limit", "unknown field"),
        ({"request": REQUEST, "grid": {"method.r": []}}, "grid.method.r", "list of one value or more"),
        ({"request": REQUEST, "grid": {"method.r": 8}}, "grid.method.r", "list of one value or more"),
        ({"request": REQUEST, "grid": {"method.rank": [8]}}, "grid.method.rank", "not a field"),
        ({"request": REQUEST, "grid": {"training.method.r": [8]}}, "grid.training.method.r", "not a field"),
        ({"request": REQUEST, "grid": {"model.config.n_layer": [8]}}, "grid.model.config.n_layer", "not a field"),
        ({"request": {**REQUEST, "color": 1}, "grid": {"method.r": [8]}}, "request.color", "unknown field"),
        (
            {"request": {**REQUEST, "training": {"dtype": "int8"}}, "grid": {"method.r": [8]}},
            "request.training.dtype",
            "must be one of",
        ),
        (
            {"request": {**REQUEST, "training": 5}, "grid": {"training.padding": [True]}},
            "request.training",
            "an object",
        ),
        (
            {"request": {**REQUEST, "training": None}, "grid": {"training.padding": [True]}},
            "request.training",
            "an object",
        ),
        ({"request": {**REQUEST, "method": "lora"}, "grid": {"method.name": ["lora"]}}, "request.method", "an object"),
        (
            {"request": {**REQUEST, "model": {"config": []}}, "grid": {"model.config.n_layer": [1]}},
            "request.model.config",
            "an object",
        ),
        (
            {"request": {**REQUEST, "model": {"config": {"rope": 1}}}, "grid": {"model.config.rope.factor.x": [1]}},
            "request.model.config.rope",
            "must be an object, because model.config.rope.factor.x varies in it",
        ),
        ({"request": REQUEST, "grid": {"": [8]}}, "grid.", "not a field"),
        ({"request": REQUEST, "grid": {"training.": [8]}}, "grid.training.", "not a field"),
        ({"request": BY_CONFIG, "grid": {"model.config.": [8]}}, "grid.model.config.", "not a field"),
        ({"request": BY_CONFIG, "grid": {"model.config..x": [8]}}, "grid.model.config..x", "not a field"),
    ],
)
def test_problems_of_every_point_are_refused_before_the_sweep(body, loc, message):
    with pytest.raises(PlanError) as refused:
        parse_sweep(body)
    assert refused.value.problems[0].loc == loc
    assert message in refused.value.problems[0].msg


def test_a_grid_of_too_many_points_is_refused_with_their_number():
    grid = {"method.r": list(range(1, 102)), "training.sequence_length": list(range(2, 102))}
    with pytest.raises(PlanError, match="10,100 points; a request may have 10,000"):
        parsed(grid)
    assert parse_sweep({"request": REQUEST, "grid": grid}, most=None).count == 10_100
    assert parsed({"method.r": list(range(1, MAX_POINTS + 1))}).count == MAX_POINTS


@pytest.mark.parametrize(
    ("part", "whole", "values"),
    [
        ("method.r", "method", [{"name": "lora"}]),
        ("training.sequence_length", "training", [{"padding": True}]),
        ("model.config.rope.factor", "model.config.rope", [{}]),
        ("model.config.rope.factor", "model", [{"config": GPT2}]),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_a_field_and_a_part_of_it_have_no_lists_both(part, whole, values, order):
    """The later would undo the earlier, and rows would tell of values that were not used."""
    grid = dict([(part, [8, 16]), (whole, values)][::order])
    with pytest.raises(PlanError) as refused:
        parsed(grid, BY_CONFIG)
    (problem,) = refused.value.problems
    assert problem.loc == f"grid.{part}"
    assert problem.msg == f"is part of {whole}, which has a list too: leave one of them out"


def test_every_value_that_is_no_object_is_named_once():
    with pytest.raises(PlanError) as refused:
        parsed(
            {"training.padding": [True], "training.dtype": ["float32"], "device.count": [1]},
            {"training": 5, "device": ""},
        )
    assert [problem.loc for problem in refused.value.problems] == ["request.training", "request.device"]


def test_a_field_with_the_prefix_of_another_is_not_a_part_of_it():
    assert parsed({"model.config.n": [1], "model.config.n_layer": [1, 2]}, BY_CONFIG).count == 2


@pytest.mark.parametrize("parts", [MAX_DEPTH - 1, 5000])
def test_a_path_deeper_than_any_request_is_refused(parts):
    path = f"model.config.{'.'.join(['a'] * parts)}"
    with pytest.raises(PlanError) as refused:
        parsed({path: [1]}, BY_CONFIG)
    (problem,) = refused.value.problems
    assert problem.loc == f"grid.{path}"
    assert f"at most {MAX_DEPTH} levels deep" in problem.msg


def test_a_path_as_deep_as_a_request_may_be_is_answered():
    path = f"model.config.{'.'.join(['a'] * (MAX_DEPTH - 2))}"
    parsed_sweep = parsed({path: [1]}, {**REQUEST, "model": {"config": {**GPT2, "n_layer": 1}}})
    assert [swept.problems for swept in answers(parsed_sweep)] == [()]


def test_releases_and_options_of_checkpointing_can_be_swept():
    swept = parse_sweep(
        {
            "request": {
                "model": "meta-llama/Llama-3.2-1B",
                "method": {"name": "lora"},
                "training": {"trainer": "trl-sft", "gradient_checkpointing": True, "sequence_length": 64},
            },
            "grid": {
                "stack.trl": ["1.9", "1.16"],
                "training.gradient_checkpointing_kwargs.use_reentrant": [False, True],
            },
        }
    )
    assert all(point.estimate is not None for point in answers(swept))
