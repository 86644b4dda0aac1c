"""The chart has a point for every estimated figure, in the style sheet's colors only."""

import json

from app.api.answers.validation import validation
from app.pages.validation.view import context as validation_context
from app.presentation.format import gib

CONTEXT = validation_context(validation().published)


def test_every_estimated_figure_is_a_point():
    points = [trace for trace in json.loads(CONTEXT["figure"])["data"] if trace["mode"] == "markers"]
    drawn = sorted((x, y) for trace in points for x, y in zip(trace["x"], trace["y"], strict=True))
    rows = (*CONTEXT["whole"], *CONTEXT["in_part"])
    assert drawn == sorted((gib(row.measured_bytes), gib(row.predicted_bytes)) for row in rows)


def test_a_statistic_has_its_own_marker_and_partly_expressed_runs_an_open_one():
    points = [trace for trace in json.loads(CONTEXT["figure"])["data"] if trace["mode"] == "markers"]
    marks = {(trace["meta"], trace["marker"]["symbol"]) for trace in points}
    assert len({symbol for _, symbol in marks}) == len(marks)
    assert "color" not in CONTEXT["figure"]
