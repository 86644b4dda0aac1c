"""Plotly figures as JSON, drawn by the served copy of plotly.js in the style sheet's colors."""

from __future__ import annotations

import json
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from app.presentation.format import gib, size
from app.presentation.labels import COMPONENTS, PHASES, parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.devices import Fit
    from calculator.estimation.answer import Estimate, Memory, Timeline


#: The longest line of a GPU's label, in characters, so that it fits on a phone.
LABEL_WIDTH = 20


def methods_figure(plans: dict[str, Estimate], fit: Fit | None) -> str:
    """Return stacked bars of the required memory, one per method, and a line at the GPU's memory.

    `meta` names the color of a bar.
    """
    labels = list(reversed(plans))
    figure = go.Figure(layout={"template": go.layout.Template()})
    sizes = {label: {part.component.name: part.bytes for part in parts(plans[label].memory)} for label in labels}
    for name, component in COMPONENTS.items():
        if any(name in bar for bar in sizes.values()):
            figure.add_trace(_bars(name, component.label, {label: sizes[label].get(name, 0) for label in labels}))
    figure.update_layout(**_layout(len(labels)))
    if fit is not None:
        _line(figure, fit, max(sum(bar.values()) for bar in sizes.values()), len(labels))
    return embedded(figure)


def timeline_figure(memory: Memory) -> str:
    """Return the bytes alive over one step, with the peak and the phases marked."""
    line = memory.timeline
    figure = _line_chart(
        range(len(line)),
        [moment.bytes for moment in line],
        [f"{PHASES[moment.phase]}, {moment.operation}: {size(moment.bytes)}" for moment in line],
        titles=("the step, in order", "GiB allocated"),
    )
    figure.update_xaxes(showticklabels=False)
    for phase in PHASES:
        first = next((index for index, moment in enumerate(line) if moment.phase == phase), None)
        if first is not None:
            _mark_phase(figure, first, PHASES[phase])
    _mark_peak(figure, line)
    return embedded(figure)


def snapshot_figure(line: tuple[int, ...]) -> str | None:
    """Return the bytes in use over a snapshot's history; None without one."""
    if not line:
        return None
    captions = [size(most) for most in line]
    figure = _line_chart(range(len(line)), line, captions, titles=("the history, in order", "GiB in use"))
    figure.update_xaxes(showticklabels=False)
    return embedded(figure)


def history_figure(memory: Memory) -> str | None:
    """Return the bytes reserved by step of the worst history, with the most marked; None if there is none."""
    history = memory.history
    if history is None:
        return None
    steps = range(1, len(history.reserved_by_step) + 1)
    captions = [
        f"step {step}, {' + '.join(f'{length:,}' for length in lengths)} tokens: {size(reserved)}"
        for step, lengths, reserved in zip(steps, history.micro_batches, history.reserved_by_step, strict=False)
    ]
    figure = _line_chart(steps, history.reserved_by_step, captions, titles=("step", "GiB reserved"))
    figure.update_traces(mode="lines+markers")
    figure.update_layout(height=260, margin_t=16)
    return embedded(figure)


def _line_chart(x: range, y: Sequence[int], captions: list[str], *, titles: tuple[str, str]) -> go.Figure:
    """Return bytes over a sequence of events, each with its caption. `titles` are those of the axes."""
    figure = go.Figure(layout={"template": go.layout.Template()})
    figure.add_trace(
        go.Scatter(
            x=list(x),
            y=[gib(value) for value in y],
            customdata=captions,
            hovertemplate="%{customdata}<extra></extra>",
            mode="lines",
            line={"shape": "hvh", "width": 2},
            meta="accent",
        )
    )
    figure.update_layout(
        height=320,
        margin={"l": 8, "r": 16, "t": 32, "b": 32},
        xaxis={"zeroline": False, "showgrid": False, "title": {"text": titles[0]}},
        yaxis={"title": {"text": titles[1]}, "rangemode": "tozero", "automargin": True},
        showlegend=False,
    )
    return figure


def _mark_phase(figure: go.Figure, first: int, label: str) -> None:
    edge = first - 0.5
    figure.add_shape(type="line", x0=edge, x1=edge, y0=0, y1=1, yref="paper", line={"width": 1, "dash": "dot"})
    last = label == PHASES["optimizer_step"]
    side = "right" if last else "left"
    figure.add_annotation(
        x=edge, y=0 if last else 1, yref="paper", yanchor="bottom", xanchor=side, showarrow=False, text=label
    )


def _mark_peak(figure: go.Figure, line: Timeline) -> None:
    index, moment = max(enumerate(line), key=lambda indexed: indexed[1].bytes, default=(0, None))
    if moment is not None:
        marker = {"symbol": "diamond", "size": 11}
        peak = go.Scatter(x=[index], y=[gib(moment.bytes)], mode="markers", marker=marker, meta="does_not_fit")
        figure.add_trace(peak.update(hoverinfo="skip"))


def embedded(figure: go.Figure) -> str:
    """Return a figure as JSON that is safe inside a script element."""
    return json.dumps(json.loads(figure.to_json()), separators=(",", ":")).replace("<", "\\u003c")


def _bars(name: str, label: str, sizes: dict[str, int]) -> go.Bar:
    return go.Bar(
        name=label,
        orientation="h",
        y=list(sizes),
        x=[gib(count) for count in sizes.values()],
        customdata=[size(count) for count in sizes.values()],
        hovertemplate="%{y}<br>" + label + ": %{customdata}<extra></extra>",
        meta=name,
    )


def _layout(bars: int) -> dict[str, Any]:
    return {
        "barmode": "stack",
        "bargap": 0.35,
        "height": _height(1, bars),
        "margin": {"l": 8, "r": 16, "t": _above(1), "b": 8},
        "xaxis": {"title": {"text": "GiB on each GPU"}, "automargin": True, "rangemode": "tozero"},
        "yaxis": {"automargin": True, "ticksuffix": "  "},
        "showlegend": False,
    }


def _above(lines: int) -> int:
    """Return the height of some lines of text above the bars, in pixels."""
    return 12 + 16 * lines


def _height(lines: int, bars: int) -> int:
    return _above(lines) + 68 + 44 * bars


def _line(figure: go.Figure, fit: Fit, longest: int, bars: int) -> None:
    """Draw a line at the GPU's memory. Its label is narrow, and left of a line far right, to fit on a phone."""
    usable = gib(fit.usable_bytes)
    side = "right" if 2 * fit.usable_bytes > longest else "center"
    name = fit.gpu.name if fit.gpu else "the GPU"
    figure.add_shape(type="line", x0=usable, x1=usable, y0=0, y1=1, yref="paper", line={"width": 2, "dash": "dash"})
    lines = [*wrap(name, LABEL_WIDTH), size(fit.usable_bytes)]
    text = "<br>".join(lines)
    figure.add_annotation(x=usable, y=1, yref="paper", xanchor=side, yanchor="bottom", showarrow=False, text=text)
    figure.update_layout(margin_t=_above(len(lines)), height=_height(len(lines), bars))
