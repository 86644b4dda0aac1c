"""What a results file says, in lines for people."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from validation.measure.results import Results


def layer_line(row: dict[str, Any]) -> str:
    """A layer: the bytes measured beyond the predicted ones, by moment."""
    differences = {
        moment: figures["measured"]["allocated"] - figures["predicted"]["allocated"]
        for moment, figures in row["moments"].items()
    }
    told = ", ".join(f"{moment} {value:+,}" for moment, value in differences.items() if value)
    return f"{row['name']:44} {told or 'allocated: to the byte'}"


def step_line(row: dict[str, Any]) -> str:
    """A step: the peak's error, or what was compared where the device tells no peak."""
    measured, predicted = row["measured"], row["predicted"]
    if measured is None:
        return f"{row['name']:56} out of memory in {row['out_of_memory']['phase']}"
    if measured["peak_allocated"] is None:
        told = ", ".join(f"{name} {measured[name] - predicted[name]:+,}" for name in ("load", "end"))
        return f"{row['name']:56} {told}"
    return f"{row['name']:56} peak {error(row):+.3%}, {measured['seconds_per_step']:.3f} s a step"


def verdict_line(row: dict[str, Any]) -> str:
    """A verdict: whether each capped run ended as predicted."""
    right = all(run["should_run"] == run["ran"] for run in row["runs"])
    return f"{row['name']:56} {'as predicted above and below' if right else 'NOT as predicted'}"


LINES = {"layers": layer_line, "steps": step_line, "verdicts": verdict_line}


def error(row: dict[str, Any]) -> float:
    """A step's predicted peak of allocated bytes against the measured, as a share of the measured."""
    return float(row["predicted"]["peak_allocated"] / row["measured"]["peak_allocated"] - 1)


def summary(results: Results) -> Iterator[str]:
    """A few lines on everything measured."""
    layers = results.rows("layers")
    exact = sum(layer_line(row).endswith("to the byte") for row in layers)
    yield f"layers: {exact} of {len(layers)} to the byte in what is allocated"
    steps = results.rows("steps")
    with_peak = [row for row in steps if row["measured"] and row["measured"]["peak_allocated"] is not None]
    if with_peak:
        yield f"steps: {len(with_peak)} measured, {_errors(map(error, with_peak))}"
    else:
        same = sum(_same(row) for row in steps)
        yield f"steps: {same} of {len(steps)} to the byte in what stays; this device tells no peaks"
    ended = [run["should_run"] == run["ran"] for row in results.rows("verdicts") for run in row["runs"]]
    if ended:
        yield f"verdicts: {sum(ended)} of {len(ended)} as predicted"


def _same(row: dict[str, Any]) -> bool:
    return row["measured"] is not None and all(
        row["measured"][name] == row["predicted"][name] for name in ("load", "end")
    )


def _errors(errors: Iterable[float]) -> str:
    told = sorted(errors)
    return f"median |error| {median(map(abs, told)):.3%}, lowest {told[0]:+.3%}, highest {told[-1]:+.3%}"
