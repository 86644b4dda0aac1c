"""The lesson's plotly figures, in the style sheet's colors. Every series also has its own marker or dashes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from app.presentation.charts import embedded
from app.presentation.format import plain
from calculator.resident import nf4

if TYPE_CHECKING:
    from app.pages.lesson.experiments import Axis, CurveAnswer, Series, TableAnswer

#: The style sheet's colors for series, and the markers that distinguish series without color.
COLORS = ("series-1", "series-2", "series-3", "series-4", "series-5", "series-6")
_MARKS = ("circle", "square", "diamond", "triangle-up", "cross", "x")

#: Dash styles: plotly's names, and SVG patterns for the legend.
DASHES = {
    "solid": "none",
    "dash": "6 4",
    "dot": "2 3",
    "dashdot": "6 3 2 3",
    "longdash": "11 4",
    "longdashdot": "11 3 2 3",
}

HEIGHT = 360

#: A line with more points has no markers, and its spread is shown only in its table.
MANY = 40

#: The ratio of the largest to the smallest value from which an axis is logarithmic, and its ticks.
_MAGNITUDES = 12
_MOST_TICKS = 12
_DOUBLINGS = tuple(2**i for i in range(24))

#: The range in which the density is drawn, in units of the largest level, and its number of points.
_WIDEST = 1.7
_POINTS = 171


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """How a series is drawn: its color in the style sheet, and its dashes (bars have none)."""

    color: str
    dash: str
    bars: bool

    @property
    def pattern(self) -> str:
        """The dashes as an SVG pattern."""
        return DASHES[self.dash]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A level of NF4: its number, its value, and the share of a Gaussian that rounds to it."""

    number: int
    level: float
    share: float


def levels() -> tuple[Level, ...]:
    """Return the sixteen levels of NF4."""
    shares = zip(nf4.levels(), nf4.bin_masses(), strict=True)
    return tuple(Level(number=i, level=level, share=share) for i, (level, share) in enumerate(shares))


@cache
def levels_figure() -> str:
    """Return the levels under the Gaussian density of which they are quantiles."""
    bell = NormalDist(sigma=1 / nf4.scale())
    xs = [round(-_WIDEST + 2 * _WIDEST * i / (_POINTS - 1), 3) for i in range(_POINTS)]
    figure = go.Figure(layout={"template": go.layout.Template()})
    figure.add_trace(
        go.Scatter(
            x=xs, y=[round(bell.pdf(x), 4) for x in xs], mode="lines", meta="series-1", name="density", hoverinfo="skip"
        )
    )
    drawn = levels()
    tops = [round(bell.pdf(level.level), 4) for level in drawn]
    places = [round(level.level, 4) for level in drawn]
    figure.add_trace(_stems(places, tops))
    figure.add_trace(
        go.Scatter(
            x=places,
            y=tops,
            mode="markers",
            marker={"size": 8},
            meta="series-2",
            name="levels",
            customdata=[[level.number, f"{100 * level.share:.2f} %"] for level in drawn],
            hovertemplate="level %{customdata[0]}: %{x}<br>takes %{customdata[1]}<extra></extra>",
        )
    )
    figure.update_layout(**_layout())
    return embedded(figure)


def _stems(xs: list[float], ys: list[float]) -> go.Scatter:
    """Return a vertical line below each point."""
    return go.Scatter(
        x=[place for x in xs for place in (x, x, None)],
        y=[height for y in ys for height in (0, y, None)],
        mode="lines",
        line={"width": 2},
        meta="series-2",
        name="stems",
        hoverinfo="skip",
    )


@cache
def shares_figure() -> str:
    """Return the share of a Gaussian that rounds to each level, with a line at one sixteenth."""
    drawn = levels()
    figure = go.Figure(layout={"template": go.layout.Template()})
    figure.add_trace(
        go.Bar(
            x=[f"{level.level:.3f}" for level in drawn],
            y=[round(100 * level.share, 3) for level in drawn],
            meta="series-2",
            hovertemplate="level %{x}<br>%{y:.2f} %<extra></extra>",
        )
    )
    figure.add_shape(type="line", x0=0, x1=1, xref="paper", y0=6.25, y1=6.25, line={"width": 2, "dash": "dash"})
    figure.update_layout(**_layout())
    figure.update_xaxes(type="category", tickangle=-60)
    return embedded(figure)


def curve_figure(curve: CurveAnswer) -> str:
    """Return a curve of the results: lines if the x values are numbers, bars if they are names."""
    figure = go.Figure(layout={"template": go.layout.Template()})
    for i, series in enumerate(curve.series):
        figure.add_trace(_bars(series, i) if series.bars else _line(series, i))
    figure.update_layout(**_layout())
    if all(series.bars for series in curve.series):
        figure.update_layout(barmode="group", bargap=0.25)
    else:
        figure.update_xaxes(**_axis(curve))
    return embedded(figure)


def _axis(curve: CurveAnswer) -> dict[str, Any]:
    """Return a logarithmic axis if the x values cover several magnitudes."""
    xs = sorted({x for series in curve.series for x in series.x if not isinstance(x, str)})
    if not xs or xs[0] <= 0 or xs[-1] / xs[0] < _MAGNITUDES:
        return {}
    ticks = xs if len(xs) <= _MOST_TICKS else [x for x in _DOUBLINGS if xs[0] <= x <= xs[-1]]
    return {"type": "log", "tickvals": ticks, "ticktext": [plain(tick) for tick in ticks]}


def shared(curve: CurveAnswer) -> bool:
    """Return whether every series has the same x values, so that one table can show them."""
    return len({series.x for series in curve.series}) == 1


def non_zero_rows(table: TableAnswer) -> tuple[dict[str, int | float | str | None], ...]:
    """Return the rows of a table that have a figure other than zero."""
    return tuple(row for row in table.rows if any(value and not isinstance(value, str) for value in row.values()))


def titled(axis: Axis) -> str:
    """Return the title of an axis: rank; share of the energy, %."""
    return f"{axis.label}, {axis.unit}" if axis.unit else axis.label


def mark(series: Series, i: int) -> Mark:
    """Return how the i-th series is drawn; after the last color, the dashes shift by one."""
    names = tuple(DASHES)
    return Mark(color=COLORS[i % len(COLORS)], dash=names[(i + i // len(COLORS)) % len(names)], bars=series.bars)


def _line(series: Series, i: int) -> go.Scatter:
    return go.Scatter(
        **_points(series, i),
        mode="lines" if len(series.x) > MANY else "lines+markers",
        line={"dash": mark(series, i).dash, "width": 2},
        marker={"symbol": _MARKS[i % len(_MARKS)], "size": 7},
    )


def _bars(series: Series, i: int) -> go.Bar:
    return go.Bar(**_points(series, i))


def _points(series: Series, i: int) -> dict[str, Any]:
    trace: dict[str, Any] = {
        "x": list(series.x),
        "y": list(series.y),
        "name": series.name,
        "meta": mark(series, i).color,
        "hovertemplate": f"{series.name}<br>%{{x}}: %{{y:.4g}}<extra></extra>",
    }
    if series.low and series.high and len(series.x) <= MANY:
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": _differences(series.high, series.y),
            "arrayminus": _differences(series.y, series.low),
            "thickness": 1.5,
        }
    return trace


def _differences(above: tuple[float | None, ...], below: tuple[float | None, ...]) -> list[float | None]:
    return [None if a is None or b is None else a - b for a, b in zip(above, below, strict=True)]


def _layout() -> dict[str, Any]:
    """Return the layout. The page shows axis titles and legend, where they can wrap."""
    return {
        "height": HEIGHT,
        "margin": {"l": 8, "r": 16, "t": 8, "b": 8},
        "xaxis": {"automargin": True},
        "yaxis": {"automargin": True},
        "showlegend": False,
    }
