"""How far estimates like one were from measurements: drawn from the committed residuals of its method."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from app.api.accuracy.residuals import STATISTICS, Errors, by_statistic, residuals
from app.presentation.labels import METHOD_LABELS
from calculator.allocator.reserved_rule import RULE_ACCURACY

if TYPE_CHECKING:
    from calculator.estimate.answer import Estimate
    from calculator.methods import Method

#: Statistics that reserved memory is part of.
BY_REPLAY = ("max_memory_reserved", "nvidia_smi")

LABELS = {"dora": "DoRA", **METHOD_LABELS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Where the required memory of equal runs would have been measured, bytes."""

    lowest_bytes: int
    highest_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How far estimates of a method were from measurements.

    `interval` is `required_bytes` with the errors that nvidia-smi's figures had; None where there are none, and where
    reserved memory is by the rule: the figures were held against replays.
    """

    method: str
    sentence: str
    errors: tuple[Errors, ...]
    interval: Interval | None


def accuracy(plan: Estimate) -> Accuracy:
    """What stands beside an estimate."""
    method = named(plan.method)
    if plan.accounting == "textbook":
        sentence = "A rule of thumb, which is not held against measurements."
        return Accuracy(method=method, sentence=sentence, errors=(), interval=None)
    errors = of_method(method)
    return Accuracy(
        method=method,
        sentence=_sentence(_inside_a_sentence(LABELS[method]), errors) + _by_the_rule(plan),
        errors=errors,
        interval=_interval(plan.memory.required_bytes, errors) if plan.reserved == "replay" else None,
    )


@cache
def of_method(method: str) -> tuple[Errors, ...]:
    """The errors of a method's figures, by statistic."""
    return by_statistic(residual for residual in residuals() if residual.method == method)


def named(method: Method) -> str:
    """A method by name; DoRA goes by its own."""
    return "dora" if getattr(method, "use_dora", False) else method.name


def _sentence(label: str, errors: tuple[Errors, ...]) -> str:
    if not errors:
        return f"No measurement of {label} on a GPU is known that an estimate like this one could be held against."
    figures = sum(each.figures for each in errors)
    ranges = "; ".join(f"{STATISTICS[each.statistic]}, {_range(each)} ({each.figures})" for each in errors)
    counted = f"{figures} measured figures" if figures > 1 else "one measured figure"
    by_replay = ", reserved memory by replay" if any(each.statistic in BY_REPLAY for each in errors) else ""
    return f"Estimates of {label} were held against {counted}{by_replay}: {ranges}."


def _by_the_rule(plan: Estimate) -> str:
    """What stands between such figures and an answer whose reserved memory is by the rule."""
    return f" Reserved memory follows a rule here, which is {RULE_ACCURACY}." if plan.reserved == "rule" else ""


def _inside_a_sentence(label: str) -> str:
    """A label as it stands within a sentence: full fine-tuning, LoRA."""
    return label.lower() if label == label.capitalize() else label


def _range(errors: Errors) -> str:
    low, high = beside(errors.lowest_error), beside(errors.highest_error)
    return low if low == high else f"{low} to {high}"


def beside(error: float) -> str:
    """An error in words: 0.52 % low, 0.40 % high, exact."""
    size = f"{abs(error) * 100:.2f} %"
    if size == "0.00 %":
        return "under 0.01 % off" if error else "exact"
    return f"{size} {'low' if error < 0 else 'high'}"


def _interval(required: int, errors: tuple[Errors, ...]) -> Interval | None:
    shown = next((each for each in errors if each.statistic == "nvidia_smi"), None)
    if shown is None:
        return None
    return Interval(
        lowest_bytes=round(required / (1 + shown.highest_error)),
        highest_bytes=round(required / (1 + shown.lowest_error)),
    )
