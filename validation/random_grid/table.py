"""The grid's table: errors by family and method, targets, and the worst cases with the rows that differ."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from validation.comparison.compare import line
from validation.comparison.matching import differences
from validation.tracing.snapshot import from_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.common.names import PhaseName
    from validation.tracing.snapshot import Snapshot

#: How many of the worst cases are shown, and how many rows of each.
WORST, ROWS = 10, 4


@dataclass(slots=True, kw_only=True)
class Case:
    """A request with the calculator's answer or refusal, and the trace or the real stack's refusal."""

    number: int
    request: dict[str, Any]
    estimated: Snapshot | None = None
    refusal: str | None = None
    traced: Snapshot | None = None
    real_refusal: str | None = None

    @property
    def worth_tracing(self) -> bool:
        """Whether to trace the request: not if the calculator refuses it as not modeled."""
        return self.refusal is None or "not modeled" not in self.refusal

    def add_trace(self, result: dict[str, Any] | None) -> None:
        """Add a trace's result."""
        if result is not None:
            self.real_refusal = result.get("refused")
            self.traced = from_json(result["traced"]) if "traced" in result else None

    @property
    def compared(self) -> bool:
        """Whether both sides answered."""
        return self.estimated is not None and self.traced is not None

    @property
    def error(self) -> float:
        """The relative error of the estimated peak."""
        assert self.estimated is not None
        assert self.traced is not None
        return self.estimated.peak / self.traced.peak - 1

    @property
    def wrong_phases(self) -> dict[PhaseName, int]:
        """Estimated minus traced bytes of each phase in which they differ."""
        assert self.estimated is not None
        assert self.traced is not None
        ours, theirs = self.estimated.phases, self.traced.phases
        return {phase: ours[phase] - traced for phase, traced in theirs.items() if ours[phase] != traced}

    @property
    def right_phase(self) -> bool:
        """Whether the peak is in the traced peak's phase."""
        assert self.estimated is not None
        assert self.traced is not None
        return self.estimated.peak_phase == self.traced.peak_phase

    def wrong(self, figures: str) -> bool:
        """Return whether a group of exact figures (`parameters`, `static`) differs."""
        return bool(getattr(self.estimated, figures) != getattr(self.traced, figures))

    def field(self, path: str) -> str:
        """Return a field of the request by its dotted path."""
        return json.dumps(self._value(path)).strip('"')

    def sets(self, path: str) -> bool:
        """Return whether a field of the request is neither null nor false."""
        return bool(self._value(path))

    def _value(self, path: str) -> Any:
        value: Any = self.request
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value


FAMILY, METHOD = "model.config.model_type", "method.name"


def document(cases: Sequence[Case], group_by: Sequence[str] = ()) -> tuple[str, bool]:
    """Return the whole text, and whether a target is missed."""
    compared = [case for case in cases if case.compared]
    if not compared:
        return "\n".join(_refusals(cases)), True
    lines = [_HEAD, _RULE, _row("all", compared)]
    for field in (FAMILY, METHOD, *group_by):
        groups = sorted({case.field(field) for case in compared})
        lines += [_row(f"{field}: {group}", [c for c in compared if c.field(field) == group]) for group in groups]
    targets = _targets(compared)
    lines += ["", *(f"{'met   ' if met else 'MISSED'}  {text}" for text, met in targets)]
    lines += ["", *_refusals(cases), "", *_worst(compared)]
    return "\n".join(lines), not all(met for _, met in targets)


_HEAD = (
    "| group | n | to the byte | median | 95 % | 99 % | worst under | worst over"
    " | right phase | wrong static | wrong parameters |"
)
_RULE = f"|---|{'---:|' * 10}"


def _row(name: str, cases: Sequence[Case]) -> str:
    errors = sorted(abs(case.error) for case in cases)
    signed = [case.error for case in cases]
    figures = [
        f"{sum(not case.wrong_phases for case in cases) / len(cases):.1%}",
        *(f"{error:.4%}" for error in (median(errors), share(errors, 0.95), share(errors, 0.99))),
        f"{min(0.0, *signed):+.3%}",
        f"{max(0.0, *signed):+.3%}",
        f"{sum(case.right_phase for case in cases) / len(cases):.1%}",
        *(str(sum(case.wrong(figures) for case in cases)) for figures in ("static", "parameters")),
    ]
    return f"| {name.removeprefix('model.config.')} | {len(cases)} | {' | '.join(figures)} |"


def share(ordered: Sequence[float], part: float) -> float:
    """Return the value that this share of the ordered values does not exceed."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def _targets(cases: Sequence[Case]) -> list[tuple[str, bool]]:
    errors = sorted(abs(case.error) for case in cases)
    phase = sum(case.right_phase for case in cases) / len(cases)
    under = min(case.error for case in cases)
    wrong = [sum(case.wrong(figures) for case in cases) for figures in ("parameters", "static")]
    return [
        (f"no mismatch in parameter counts or static bytes: {wrong[0]} and {wrong[1]}", not any(wrong)),
        (f"median error under 0.1 %: {median(errors):.4%}", median(errors) < 1e-3),
        (f"95 % within 0.5 %: {share(errors, 0.95):.4%}", share(errors, 0.95) <= 5e-3),
        (f"99 % within 1 %: {share(errors, 0.99):.4%}", share(errors, 0.99) <= 1e-2),
        (f"none under-predicted by more than 1 %: {under:+.4%}", under >= -1e-2),
        (f"the peak's phase right in 98 %: {phase:.1%}", phase >= 0.98),
    ]


def _refusals(cases: Sequence[Case]) -> list[str]:
    refused_by_both = [case for case in cases if case.refusal and case.real_refusal]
    unmodeled = [case for case in cases if case.refusal and not case.worth_tracing]
    alone = [case for case in cases if case.refusal and case.traced]
    missed = [case for case in cases if case.real_refusal and not case.refusal]
    return [
        f"refused by both: {len(refused_by_both)}",
        f"refused as not modeled, not traced: {len(unmodeled)}",
        *_counted(case.refusal for case in unmodeled),
        f"refused by the calculator alone: {len(alone)}",
        *_counted(case.refusal for case in alone),
        f"answered, but not traced: {len(missed)}",
        *_counted(f"{case.field(FAMILY)} {case.field(METHOD)} #{case.number}: {case.real_refusal}" for case in missed),
    ]


def _counted(messages: Iterable[str | None]) -> list[str]:
    return [f"  {count:>5}  {str(message)[:160]}" for message, count in Counter(messages).most_common(20)]


def _worst(cases: Sequence[Case]) -> list[str]:
    """Describe the cases with the largest errors, in the peak or else in a phase."""
    wrong = sorted(filter(_distance, cases), key=_distance, reverse=True)
    lines = [f"every phase to the byte in {len(cases) - len(wrong)} of {len(cases)}; the worst of the others:"]
    return lines + [text for case in wrong[:WORST] for text in _described(case)]


def _distance(case: Case) -> tuple[float, ...]:
    """Return the size of a case's error. It is empty if every phase is exact to the byte."""
    return (abs(case.error), max(map(abs, case.wrong_phases.values()))) if case.wrong_phases else ()


def _described(case: Case) -> list[str]:
    """Describe a case, its phases with an error, and the rows that differ in the worst of them."""
    assert case.estimated is not None
    assert case.traced is not None
    wrong = case.wrong_phases
    phase = max(wrong, key=lambda phase: abs(wrong[phase]))
    phases = ", ".join(f"{name} {difference:+,}" for name, difference in wrong.items())
    ours, theirs = case.estimated, case.traced
    errors = differences(ours, theirs, phase)
    return [
        f"#{case.number}  {case.error:+.4%}  {phases}; peak in {ours.peak_phase}, not {theirs.peak_phase}",
        f"  {json.dumps(case.request)}",
        *(f"  {line(match)}" for match in errors[:ROWS]),
    ]
