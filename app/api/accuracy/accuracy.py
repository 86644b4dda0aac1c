"""How far estimates of a method were from measurements, from the committed results."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from app.api.accuracy.residuals import STATISTICS, Errors, errors_by_statistic, residuals
from app.forms.fields import METHOD_LABELS
from calculator.allocator.reserved_assumptions import (
    RULE_ACCURACY,
    RULE_OF_ZERO,
    SHARDED_RULE,
    SHARDED_RULE_ACCURACY,
    ZERO_RULE_ACCURACY,
)

if TYPE_CHECKING:
    from calculator.estimation.answer import Estimate
    from calculator.methods import Method

#: Statistics that include reserved memory.
RESERVED = ("max_memory_reserved", "nvidia_smi")

LABELS = {"dora": "DoRA", **METHOD_LABELS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """The range in which the required memory of such runs was measured, in bytes."""

    lowest_bytes: int
    highest_bytes: int


@dataclass(slots=True, kw_only=True)
class Accuracy:
    """How far estimates of a method were from measurements. It never changes, except that its JSON is cached."""

    method: str
    sentence: str
    errors: tuple[Errors, ...]
    #: `required_bytes` corrected by the errors of nvidia-smi's figures. None if there are none, or if reserved memory
    #: is by the rule: the measurements were compared with replays.
    interval: Interval | None
    #: Its JSON, cached by the encoder. All estimates of a method by the rule have the same accuracy.
    json: str | None = field(default=None, init=False, repr=False, compare=False)


#: The accuracy of an answer from a trace.
TRACED = "Answers from traces are not compared with GPU measurements. The grade states what a trace cannot check."


#: The accuracy of answers that are intervals. Source of its figures: docs/accuracy/published.md, Unsloth.
FROM_SOURCE = (
    "The figures are from the trainer's source. No trace and no measurement of the same release was compared with them."
    " Of eleven published figures of older or unnamed releases, two are in the interval: long sequences needed up to"
    " 24 % more than its high end."
)


def accuracy(estimate: Estimate) -> Accuracy:
    """Return the accuracy that is shown with an estimate."""
    method = method_name(estimate.method)
    if estimate.accounting == "textbook":
        sentence = "A rule of thumb. It is not compared with measurements."
        return Accuracy(method=method, sentence=sentence, errors=(), interval=None)
    if estimate.engine == "traced":
        return Accuracy(method=method, sentence=TRACED, errors=(), interval=None)
    if estimate.memory.interval is not None:
        return Accuracy(method=method, sentence=FROM_SOURCE + _rule_sentence(estimate), errors=(), interval=None)
    if estimate.reserved == "rule":
        return _accuracy_of_rule(method, _rule_sentence(estimate))
    errors = errors_of_method(method)
    interval = _interval(estimate.memory.required_bytes, errors)
    return Accuracy(method=method, sentence=_sentence(method), errors=errors, interval=interval)


@cache
def _accuracy_of_rule(method: str, rule_sentence: str) -> Accuracy:
    """Return the accuracy of estimates whose reserved memory is by a rule."""
    return Accuracy(
        method=method, sentence=_sentence(method) + rule_sentence, errors=errors_of_method(method), interval=None
    )


@cache
def errors_of_method(method: str) -> tuple[Errors, ...]:
    """Return the errors of a method, by statistic."""
    return errors_by_statistic(residual for residual in residuals() if residual.method == method)


def method_name(method: Method) -> str:
    """Return the name of a method. DoRA has its own name."""
    return "dora" if getattr(method, "use_dora", False) else method.name


#: The least error that is not rounded to 0.00 %.
_SHOWN = 0.00005


@cache
def _sentence(method: str) -> str:
    label, errors = _inside_a_sentence(LABELS[method]), errors_of_method(method)
    if not errors:
        return f"No GPU measurement of {label} is known with which such an estimate could be compared."
    figures = sum(error.figures for error in errors)
    ranges = "; ".join(f"{STATISTICS[error.statistic]} {range_text(error)} (in {error.figures})" for error in errors)
    counted = f"{figures} measurements" if figures > 1 else "one measurement"
    by_replay = any(error.statistic in RESERVED for error in errors)
    replayed = " They replay the allocator for reserved memory." if by_replay else ""
    return f"Estimates of {label} were compared with {counted}: {ranges}.{replayed}"


def _rule_sentence(estimate: Estimate) -> str:
    """Say how the rule compares with replays, if reserved memory is by the rule."""
    if RULE_OF_ZERO in estimate.assumptions:
        return f" Here, reserved memory follows a rule, which is {ZERO_RULE_ACCURACY}."
    if SHARDED_RULE in estimate.assumptions:
        return f" Here, reserved memory follows a rule, which is {SHARDED_RULE_ACCURACY}."
    return f" Here, reserved memory follows a rule, which is {RULE_ACCURACY}." if estimate.reserved == "rule" else ""


def _inside_a_sentence(label: str) -> str:
    """Return a label in the spelling within a sentence: full fine-tuning, LoRA."""
    return label.lower() if label == label.capitalize() else label


def range_text(errors: Errors) -> str:
    """Return a range of errors as text. Errors that round to 0.00 % count as none if others are larger."""
    near, far = sorted((errors.lowest_error, errors.highest_error), key=abs)
    if error_text(near) == error_text(far):
        return error_text(near)
    if abs(near) < _SHOWN:
        return f"up to {error_text(far)}"
    if near * far > 0:
        return f"{abs(near) * 100:.2f} % to {error_text(far)}"
    return f"{error_text(errors.lowest_error)} to {error_text(errors.highest_error)}"


def error_text(error: float) -> str:
    """Return an error as text: 0.52 % low, 0.40 % high, exact."""
    size = f"{abs(error) * 100:.2f} %"
    if size == "0.00 %":
        return "under 0.01 % off" if error else "exact"
    return f"{size} {'low' if error < 0 else 'high'}"


def _interval(required: int, errors: tuple[Errors, ...]) -> Interval | None:
    shown = next((error for error in errors if error.statistic == "nvidia_smi"), None)
    if shown is None:
        return None
    return Interval(
        lowest_bytes=round(required / (1 + shown.highest_error)),
        highest_bytes=round(required / (1 + shown.lowest_error)),
    )
