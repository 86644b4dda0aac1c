"""Charts have the comparison's bytes, a line for the GPU, and the style sheet's colors only."""

import json

from app.forms.plan_form import read
from app.pages.estimate.view import comparisons, requests_of
from app.presentation.charts import methods_figure, timeline_figure
from app.presentation.format import gib
from app.presentation.labels import COMPONENTS


def compared(*pairs):
    """The whole comparison of a form."""
    form = read(pairs)
    *_, whole = comparisons(form, requests_of(form))
    return whole


def test_the_bars_of_a_method_sum_to_what_it_requires():
    plan = compared()
    figure = json.loads(methods_figure(plan.estimates, plan.chosen.estimate.fit))
    assert [trace["meta"] for trace in figure["data"]] == [name for name in COMPONENTS if name in str(figure["data"])]
    for label, estimate in plan.estimates.items():
        total = sum(trace["x"][trace["y"].index(label)] for trace in figure["data"])
        assert abs(total - gib(estimate.memory.required_bytes)) < 0.001


def test_the_line_is_at_the_memory_of_the_gpu():
    plan = compared()
    fit = plan.chosen.estimate.fit
    shape = json.loads(methods_figure(plan.estimates, fit))["layout"]["shapes"][0]
    assert shape["x0"] == shape["x1"] == gib(fit.usable_bytes)


def test_a_figure_is_safe_inside_a_page():
    plan = compared(("gpu", ""))
    figure = methods_figure({"</script><b>": plan.chosen.estimate}, None)
    assert "<" not in figure
    assert "color" not in figure
    assert json.loads(figure)["data"][0]["y"] == ["</script><b>"]


def test_the_timeline_has_every_stretch_and_marks_the_peak():
    memory = compared().chosen.estimate.memory
    line, peak = json.loads(timeline_figure(memory))["data"]
    assert line["y"] == [gib(moment.bytes) for moment in memory.timeline]
    assert peak["y"] == [gib(memory.peak_allocated_bytes)]
    assert line["y"][peak["x"][0]] == peak["y"][0]
