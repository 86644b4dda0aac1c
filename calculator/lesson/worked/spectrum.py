"""The share of an update's energy in its first r singular values."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from math import sqrt

from calculator.common.errors import refusal
from calculator.inputs.settings import setting
from calculator.lesson.worked.line import Line, WorkedExample
from calculator.lesson.worked.matrices import matrix

#: The share of the energy that counts as sufficient, as d₉₀ does for accuracy (Li et al. 2018, section 2).
ENOUGH = 0.9

#: The largest number of singular values.
MOST = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """The singular values of an update, and a rank."""

    values: str = setting("9, 4, 2.5, 1, 0.6, 0.4, 0.3, 0.2", label="Singular values", help="Of ΔW, at most 64.")
    r: int = setting(2, label="Rank", help="How many of the largest are kept.", minimum=1, maximum=MOST)


def energy(typed: Spectrum) -> tuple[Line, ...]:
    """Return the total energy, the part in the first r values, the error of rank r, and the sufficient rank."""
    values = _values(typed.values)
    squares = [value * value for value in values]
    whole, kept = sum(squares), sum(squares[: typed.r])
    enough = next(i for i, partial in enumerate(accumulate(squares), 1) if partial >= ENOUGH * whole)
    return (
        Line(name="energy", formula="Σ σᵢ²", substituted=f"{len(values)} values", value=whole),
        Line(name="in the first r", formula="σ₁² + … + σᵣ²", substituted=f"r = {typed.r}", value=kept),
        Line(
            name="share of the energy",
            formula="first r ÷ all",
            substituted=f"{kept:.6g} ÷ {whole:.6g}",
            value=100 * kept / whole,
            unit="%",
            main=True,
        ),
        Line(
            name="least error of rank r",
            formula="√(the rest ÷ all)",
            substituted=f"√({max(whole - kept, 0):.6g} ÷ {whole:.6g})",
            value=100 * sqrt(max(1 - kept / whole, 0)),
            unit="%",
        ),
        Line(
            name="rank for 90 % of the energy",
            formula="the smallest r whose share is 0.9",
            substituted="",
            value=enough,
            main=True,
        ),
    )


def _values(text: str) -> list[float]:
    words = text.replace(",", " ").replace(";", " ").split()
    if len(words) > MOST:
        raise refusal("values", f"has {len(words)} numbers; at most {MOST} are allowed", text)
    numbers = [float(matrix(word, "values")[0][0]) for word in words]
    if not numbers or min(numbers) < 0 or not any(numbers):
        raise refusal("values", "must be numbers of at least 0, one of them above 0, such as 9, 4, 1", text)
    return sorted(numbers, reverse=True)


SPECTRUM = WorkedExample(
    name="spectrum",
    title="Energy in the first r",
    introduction="No matrix of rank r is closer to ΔW than the one that keeps its r largest singular values.",
    settings=Spectrum,
    lines=energy,
)
