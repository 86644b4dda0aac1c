"""How far an answer may be trusted.

It depends on the engine that answered, and on what a trace cannot see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection

    from calculator.estimation.traced.document import TraceDocument

#: The engine that computed an answer's figures.
EngineName = Literal["calculator", "traced"]

#: The grades of confidence in an answer's figures, from the highest to the lowest.
Grade = Literal[
    "modelled",
    "modelled as an interval",
    "traced, validated operations only",
    "traced, kernel scratch unchecked",
    "traced, but a kernel package changes it",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSummary:
    """The trace of an answer, as the answer describes it.

    Attributes:
        versions: The releases of the libraries that ran.
        seconds: The duration of the trace, without the import of the libraries.
        unchecked_operations: Operations that allocate in this step and in none that the calculator models.
        kernel_packages: Packages that replace functions of this model if they are installed, with these functions.
        guesses: What was guessed of values that a trace does not have.
    """

    versions: dict[str, str]
    seconds: float
    unchecked_operations: tuple[str, ...]
    kernel_packages: dict[str, tuple[str, ...]]
    guesses: tuple[str, ...]


def summary_of(document: TraceDocument) -> TraceSummary:
    """Return the summary of a trace that an answer contains."""
    return TraceSummary(
        versions=document.versions,
        seconds=document.seconds,
        unchecked_operations=document.unchecked,
        kernel_packages=document.kernel_packages,
        guesses=document.guesses,
    )


def grade_of(*, kernel_packages: Collection[str], unchecked: Collection[str]) -> Grade:
    """Return the grade of an answer from a trace, by the packages that change it and its unchecked operations."""
    if kernel_packages:
        return "traced, but a kernel package changes it"
    if unchecked:
        return "traced, kernel scratch unchecked"
    return "traced, validated operations only"
