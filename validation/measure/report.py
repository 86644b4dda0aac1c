"""A results file as lines of text."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from validation.measure.results import Results


def layer_line(row: dict[str, Any]) -> str:
    """Return a layer: measured minus predicted bytes, by moment."""
    differences = {
        moment: figures["measured"]["allocated"] - figures["predicted"]["allocated"]
        for moment, figures in row["moments"].items()
    }
    changes = ", ".join(f"{moment} {value:+,}" for moment, value in differences.items() if value)
    return f"{row['name']:44} {changes or 'allocated: equal to the byte'}"


def step_line(row: dict[str, Any]) -> str:
    """Return a step: the peak's error, or the resident bytes' differences on a device without peaks."""
    measured, predicted = row["measured"], row["predicted"]
    if measured is None:
        return f"{row['name']:56} out of memory in {row['out_of_memory']['phase']}"
    if measured["peak_allocated"] is None:
        changes = ", ".join(f"{name} {measured[name] - predicted[name]:+,}" for name in ("load", "end"))
        return f"{row['name']:56} {changes}"
    allocated = "equal to the byte" if not phase_differences(row) else f"peak {error(row):+.3%}"
    reserved = predicted["reserved_replay"] / measured["peak_reserved"] - 1
    seconds = measured["seconds_per_step"]
    return f"{row['name']:56} allocated: {allocated}; reserved: {reserved:+.2%}; {seconds:.3f} s a step"


def verdict_line(row: dict[str, Any]) -> str:
    """Return a verdict: whether each capped run ended as predicted, and the retries of those that go through."""
    right = all(run["should_run"] == run["ran"] for run in row["runs"])
    counted = [run["retries"] for run in row["runs"] if run["should_run"]]
    retries = ", ".join(f"{count['measured']} of {count['predicted']}" for count in counted)
    return f"{row['name']:56} {'as predicted above and below' if right else 'NOT as predicted'}; retries: {retries}"


def history_line(row: dict[str, Any]) -> str:
    """Return a history: the error of the most bytes reserved, and of the mean over its steps."""
    if row["measured"] is None:
        return f"{row['name']:56} out of memory in {row['out_of_memory']['phase']}"
    most, middle = history_errors(row)
    counted = row["counts"]["retries"]
    return f"{row['name']:56} reserved: most {most:+.2%}, mean {middle:+.2%}; {counted} retries"


def history_errors(row: dict[str, Any]) -> tuple[float, float]:
    """Return the relative errors of the most bytes reserved in a history, and of the mean over its steps."""
    predicted, measured = row["predicted"]["reserved"], row["measured"]["reserved"]
    return max(predicted) / max(measured) - 1, sum(predicted) / sum(measured) - 1


def trainer_line(row: dict[str, Any]) -> str:
    """Return a trainer's step: measured minus predicted bytes, by phase."""
    changes = ", ".join(f"{phase} {difference:+,}" for phase, difference in peak_differences(row).items())
    return f"{row['name']:72} {changes or 'allocated: equal to the byte'}"


def peak_differences(row: dict[str, Any]) -> dict[str, int]:
    """Return measured minus predicted bytes of the phases of a trainer's step, without 0."""
    return _differences(row["measured"], row["predicted"])


def sharded_line(row: dict[str, Any]) -> str:
    """Return a sharded step: measured minus predicted bytes, by phase, and the error of what is reserved."""
    measured = row["measured"]
    if measured is None:
        return f"{row['name']:72} out of memory in {row['out_of_memory']['phase']}"
    differences = sharded_differences(row)
    changes = ", ".join(f"{phase} {difference:+,}" for phase, difference in differences.items())
    return f"{row['name']:72} allocated: {changes or 'equal to the byte'}; reserved: {reserved_error(row):+.2%}"


def sharded_differences(row: dict[str, Any]) -> dict[str, int]:
    """Return measured minus predicted bytes of the phases of a sharded step, without 0."""
    return _differences(row["measured"]["phases"], row["predicted"]["phases"])


def reserved_error(row: dict[str, Any]) -> float:
    """Return the relative error of the bytes that the replay of a step reserves."""
    return float(row["predicted"]["reserved_replay"] / row["measured"]["peak_reserved"] - 1)


def load_line(row: dict[str, Any]) -> str:
    """Return a load and the steps after it: the error of what is reserved after each."""
    errors = [f"{predicted / measured - 1:+.2%}" for predicted, measured in _stages(row)]
    return f"{row['name']:56} reserved: load {errors[0]}, steps {', '.join(errors[1:])}"


def served_line(row: dict[str, Any]) -> str:
    """Return a run of `generate`: measured minus predicted bytes, by pass, and the error of what is reserved."""
    differences = served_differences(row)
    changes = ", ".join(f"{name} {difference:+,}" for name, difference in differences.items())
    return f"{row['name']:56} allocated: {changes or 'equal to the byte'}; reserved: {reserved_error(row):+.2%}"


def served_differences(row: dict[str, Any]) -> dict[str, int]:
    """Return measured minus predicted bytes of the passes of `generate`, without 0."""
    return _differences(row["measured"]["passes"], row["predicted"]["passes"])


def _differences(measured: dict[str, int], predicted: dict[str, int]) -> dict[str, int]:
    differences = {name: measured[name] - size for name, size in predicted.items()}
    return {name: difference for name, difference in differences.items() if difference}


def _stages(row: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Yield the predicted and the measured memory after a load and after each step."""
    yield from zip(row["predicted"], row["measured"], strict=True)


LINES = {
    "layers": layer_line,
    "steps": step_line,
    "verdicts": verdict_line,
    "histories": history_line,
    "trainers": trainer_line,
    "sharded": sharded_line,
    "loads": load_line,
    "served": served_line,
}


def phase_differences(row: dict[str, Any]) -> dict[str, int]:
    """Return measured minus predicted bytes of a step, of its peaks by phase and of its resident tensors, without 0."""
    measured, predicted = row["measured"], row["predicted"]
    differences = {
        phase: reading["peak_allocated"] - predicted["phases"][phase] for phase, reading in measured["phases"].items()
    }
    differences |= {name: measured[name] - predicted[name] for name in ("load", "end")}
    return {name: difference for name, difference in differences.items() if difference}


def error(row: dict[str, Any]) -> float:
    """Return the relative error of a step's predicted peak of allocated bytes."""
    return float(row["predicted"]["peak_allocated"] / row["measured"]["peak_allocated"] - 1)


def summary(results: Results) -> Iterator[str]:
    """Yield a few lines about everything measured."""
    layers = results.rows("layers")
    if layers:
        exact = sum(layer_line(row).endswith("equal to the byte") for row in layers)
        yield f"layers: allocated bytes equal in {exact} of {len(layers)}"
    steps = results.rows("steps")
    with_peak = [row for row in steps if row["measured"] and row["measured"]["peak_allocated"] is not None]
    if with_peak:
        exact = sum(not phase_differences(row) for row in with_peak)
        yield f"steps: allocated bytes equal in {exact} of {len(with_peak)}, {_errors(map(error, with_peak))}"
    elif steps:
        same = sum(_is_equal(row) for row in steps)
        yield f"steps: resident bytes equal in {same} of {len(steps)}; this device reports no peaks"
    ended = [run["should_run"] == run["ran"] for row in results.rows("verdicts") for run in row["runs"]]
    if ended:
        yield f"verdicts: {sum(ended)} of {len(ended)} as predicted"
    histories = [history_errors(row) for row in results.rows("histories") if row["measured"] is not None]
    if histories:
        most, middle = zip(*histories, strict=True)
        yield f"histories: most bytes reserved {_errors(most)}; mean over the steps {_errors(middle)}"
    trainers = results.rows("trainers")
    if trainers:
        exact = sum(not peak_differences(row) for row in trainers)
        errors = [max(row["predicted"].values()) / max(row["measured"].values()) - 1 for row in trainers]
        yield f"trainers: allocated bytes equal in {exact} of {len(trainers)}, {_errors(errors)}"
    sharded = [row for row in results.rows("sharded") if row["measured"] is not None]
    if sharded:
        exact = sum(not sharded_differences(row) for row in sharded)
        errors = [reserved_error(row) for row in sharded]
        yield f"sharded: allocated bytes equal in {exact} of {len(sharded)}; reserved: {_errors(errors)}"
    stages = [predicted / measured - 1 for row in results.rows("loads") for predicted, measured in _stages(row)]
    if stages:
        exact = sum(not error for error in stages)
        yield f"loads: reserved bytes equal in {exact} of {len(stages)} stages, {_errors(stages)}"
    served = results.rows("served")
    if served:
        exact = sum(not served_differences(row) for row in served)
        errors = [reserved_error(row) for row in served]
        yield f"served: allocated bytes equal in {exact} of {len(served)}; reserved: {_errors(errors)}"


def _is_equal(row: dict[str, Any]) -> bool:
    return row["measured"] is not None and all(
        row["measured"][name] == row["predicted"][name] for name in ("load", "end")
    )


def _errors(errors: Iterable[float]) -> str:
    ordered = sorted(errors)
    return f"median |error| {median(map(abs, ordered)):.3%}, lowest {ordered[0]:+.3%}, highest {ordered[-1]:+.3%}"
