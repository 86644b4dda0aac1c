"""The lesson's charts draw what the results contain, in the style sheet's colors only."""

import json

import pytest

from app.pages.lesson import drawings
from app.pages.lesson.experiments import CurveAnswer, TableAnswer
from calculator.resident import nf4


def curve(*series, **changes):
    axis = {"label": "r", "unit": ""}
    named = [{"name": f"series {i}", **one} for i, one in enumerate(series)]
    return CurveAnswer.model_validate(
        {"id": "c", "title": "t", "x": axis, "y": axis, "timing": False, "series": named, **changes}
    )


def drawn(*series):
    return json.loads(drawings.curve_figure(curve(*series)))


def points(x, **changes):
    return {"x": x, "y": [0.5 + i / 10 for i in range(len(x))], "low": None, "high": None, **changes}


def test_text_makes_bars_and_numbers_a_line():
    assert drawn(points(["NF4", "FP4"]))["data"][0]["type"] == "bar"
    line = drawn(points([1, 2, 3]))["data"][0]
    assert (line["type"], line["mode"]) == ("scatter", "lines+markers")


def test_a_spread_is_drawn_on_both_sides():
    trace = drawn(points([1, 2], low=[0.4, 0.5], high=[0.8, 0.6]))["data"][0]["error_y"]
    assert trace["array"] == pytest.approx([0.3, 0.0])
    assert trace["arrayminus"] == pytest.approx([0.1, 0.1])


def test_many_points_are_drawn_as_a_line_only():
    x = list(range(1, drawings.MANY + 2))
    trace = drawn(points(x, low=[0] * len(x), high=[1] * len(x)))["data"][0]
    assert trace["mode"] == "lines"
    assert "error_y" not in trace


@pytest.mark.parametrize(("x", "log"), [([1, 2, 4, 64], True), ([1, 2, 3], False), ([0, 100], False)])
def test_magnitudes_are_drawn_on_a_logarithmic_axis(x, log):
    axis = drawn(points(x))["layout"]["xaxis"]
    assert (axis.get("type") == "log") == log


def test_eight_series_differ_in_color_or_dash():
    trace = drawn(*[points([1, 2])] * 8)["data"]
    assert len({(trace["meta"], trace["line"]["dash"]) for trace in trace}) == 8


def test_no_figure_defines_a_color():
    for figure in (drawings.levels_figure(), drawings.shares_figure(), drawings.curve_figure(curve(points([1, 2])))):
        assert "color" not in figure
        assert "<" not in figure


def test_the_levels_are_points_of_the_bell_curve():
    bell, _, levels = json.loads(drawings.levels_figure())["data"]
    assert levels["x"] == [round(level, 4) for level in nf4.levels()]
    for x, y in zip(levels["x"], levels["y"], strict=True):
        nearest = min(range(len(bell["x"])), key=lambda i: abs(bell["x"][i] - x))
        assert y == pytest.approx(bell["y"][nearest], abs=0.02)


def test_the_shares_are_of_a_whole():
    (bars,) = json.loads(drawings.shares_figure())["data"]
    assert sum(bars["y"]) == pytest.approx(100, abs=0.01)


def test_empty_rows_are_not_in_a_table():
    columns = [{"key": "run", "label": "run", "unit": ""}, {"key": "b", "label": "b", "unit": "bytes"}]
    rows = [{"run": "full", "b": 0}, {"run": "lora", "b": 512}, {"run": "none", "b": None}]
    table = TableAnswer.model_validate({"id": "t", "title": "t", "columns": columns, "rows": rows, "timing": False})
    assert drawings.non_zero_rows(table) == ({"run": "lora", "b": 512},)
