"""The scatter plot of estimates and measurements. Each statistic has its own color and marker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from app.api.accuracy.residuals import STATISTICS
from app.presentation.charts import embedded
from app.presentation.format import deviation, gib, size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.api.answers.validation import PublishedRow

#: The statistic of a figure whose source does not say how it was read.
UNSTATED = "unstated"

#: The marker of each statistic: plotly's name, and an SVG path in a 10 × 10 square for the legend.
SYMBOLS = {
    "max_memory_allocated": "circle",
    "memory_allocated": "diamond",
    "max_memory_reserved": "square",
    "nvidia_smi": "triangle-up",
    UNSTATED: "cross",
}
PATHS = {
    "max_memory_allocated": "M5 1a4 4 0 0 1 0 8a4 4 0 0 1 0-8",
    "memory_allocated": "M5 0l5 5l-5 5l-5-5z",
    "max_memory_reserved": "M1 1h8v8h-8z",
    "nvidia_smi": "M5 1l5 8h-10z",
    UNSTATED: "M4 1h2v3h3v2h-3v3h-2v-3h-3v-2h3z",
}

#: Ticks of the axes, in GiB.
TICKS = (1, 2, 5, 10, 20, 50, 100)


def measurements_figure(rows: Iterable[PublishedRow]) -> str:
    """Return points by statistic, filled if a request describes the run completely, and the line of equality."""
    measured = [row for row in rows if row.predicted_bytes and row.measured_bytes]
    figure = go.Figure(layout={"template": go.layout.Template()})
    figure.add_trace(_diagonal(measured))
    for statistic, label in (*STATISTICS.items(), (UNSTATED, "not stated")):
        for expressed, mark in (("whole", ""), ("in part", "-open")):
            chosen = [row for row in measured if (row.statistic, row.expressed) == (statistic, expressed)]
            if chosen:
                name = label if expressed == "whole" else f"{label}, described in part"
                figure.add_trace(_points(chosen, name, statistic, SYMBOLS[statistic] + mark))
    figure.update_layout(**_layout())
    return embedded(figure)


def _diagonal(rows: list[PublishedRow]) -> go.Scatter:
    sizes = [gib(size) for row in rows for size in (row.predicted_bytes or 0, row.measured_bytes or 0)]
    ends = [min(sizes, default=1) * 0.9, max(sizes, default=1) * 1.1]
    return go.Scatter(
        x=ends, y=ends, mode="lines", line={"dash": "dot", "width": 1}, name="equal", hoverinfo="skip", meta="ink"
    )


def _points(rows: list[PublishedRow], name: str, statistic: str, symbol: str) -> go.Scatter:
    return go.Scatter(
        x=[gib(row.measured_bytes or 0) for row in rows],
        y=[gib(row.predicted_bytes or 0) for row in rows],
        customdata=[
            [
                f"{row.model}, {row.method}",
                size(row.measured_bytes or 0),
                size(row.predicted_bytes or 0),
                deviation(row.error or 0),
            ]
            for row in rows
        ],
        hovertemplate="%{customdata[0]}<br>measured %{customdata[1]}<br>estimated %{customdata[2]}"
        "<br>%{customdata[3]}<extra></extra>",
        mode="markers",
        marker={"symbol": symbol, "size": 10},
        name=name,
        meta=statistic,
    )


def _layout() -> dict[str, Any]:
    axis = {"type": "log", "tickvals": list(TICKS), "ticktext": [str(tick) for tick in TICKS], "automargin": True}
    return {
        "height": 480,
        "margin": {"l": 8, "r": 16, "t": 8, "b": 8},
        "xaxis": {**axis, "title": {"text": "measured, GiB"}},
        "yaxis": {**axis, "title": {"text": "estimated, GiB"}},
        "showlegend": False,
    }
