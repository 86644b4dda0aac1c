"""What was run for the lesson's claims, as `python -m validation prove` wrote it."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from app.api.accuracy import results
from app.api.answers.estimate import Answer, told

Kind = Literal["holds", "holds within", "does not hold"]


class Figure(Answer):
    """A figure that a claim is held against."""

    key: str = told("Its name in the claim.", "differing_float32")
    name: str = told("What it is.", "logits that differ in any bit, in float32")
    value: int | float | None = told("The figure; the median of several; null where it is not finite.", 0)
    unit: str = told("Its unit; empty where it has none.", "logits")
    low: float | None = told("The lowest of several.", None)
    high: float | None = told("The highest of several.", None)
    of: int | None = told("How many seeds or rounds the spread is of.", None)
    timing: bool = told("Whether another run gives another figure.", False)


class Check(Answer):
    """What a figure had to be for the claim to hold."""

    figure: str = told("The figure's key.", "differing_float32")
    relation: Literal["equal to", "at most", "at least", "between"] = told("How it is held.", "equal to")
    bounds: tuple[float, ...] = told("Against what.", [0])
    tolerance: bool = told("Whether the bound allows for rounding.", False)
    holds: bool = told("Whether it does.", True)


class VerdictAnswer(Answer):
    """What became of a claim."""

    kind: Kind = told("The verdict.", "holds")
    words: str = told("The verdict as a sentence.", "holds")


class ClaimAnswer(Answer):
    """A claim of the lesson: what it says, what was run, the figures, and what became of it."""

    id: str = told("Its name.", "identity-lora")
    lesson: str = told("What the lesson says.", "With B = 0 the adapted model gives the base model's output.")
    done: str = told("What was run.", "LoRA on every linear layer of a two-layer Llama, by PEFT.")
    figures: tuple[Figure, ...] = told("The figures.", [{"key": "differing_float32", "value": 0}])
    checks: tuple[Check, ...] = told("What they had to be.", [{"figure": "differing_float32"}])
    verdict: VerdictAnswer = told("What became of it.", {"kind": "holds", "words": "holds"})
    remark: str | None = told("Where practice departs from it.", None)

    @property
    def held(self) -> tuple[Figure, ...]:
        """The figures that decide."""
        deciding = {check.figure for check in self.checks}
        return tuple(figure for figure in self.figures if figure.key in deciding)

    @property
    def beside(self) -> tuple[Figure, ...]:
        """The others."""
        return tuple(figure for figure in self.figures if figure not in self.held)


class Axis(Answer):
    """What a curve is over, or of."""

    label: str = told("What.", "rank")
    unit: str = told("In what; empty where it has none.", "")


class Series(Answer):
    """Points of one kind; text on x is a group of bars."""

    name: str = told("What they are of.", "LoRA")
    x: tuple[int | float | str, ...] = told("Where.", [1, 2, 4])
    y: tuple[int | float | None, ...] = told("How much.", [0.91, 0.94, 0.96])
    low: tuple[float | None, ...] | None = told("The lowest of several.", None)
    high: tuple[float | None, ...] | None = told("The highest of several.", None)

    @property
    def bars(self) -> bool:
        """Whether x names things, and does not count."""
        return any(isinstance(x, str) for x in self.x)


class CurveAnswer(Answer):
    """Something to draw."""

    id: str = told("Its name.", "accuracy-by-rank")
    title: str = told("What it shows.", "Accuracy by rank")
    x: Axis = told("Its horizontal axis.", {"label": "rank", "unit": ""})
    y: Axis = told("Its vertical axis.", {"label": "accuracy", "unit": ""})
    series: tuple[Series, ...] = told("What is drawn.", [{"name": "LoRA", "x": [1], "y": [0.9]}])
    timing: bool = told("Whether another run gives other points.", False)


class Column(Answer):
    """A table's column."""

    key: str = told("Its key in the rows.", "traced")
    label: str = told("Its head.", "Traced")
    unit: str = told("Its unit; bytes are whole.", "bytes")


class TableAnswer(Answer):
    """Figures by row and column."""

    id: str = told("Its name.", "savings")
    title: str = told("What it shows.", "Memory savings")
    columns: tuple[Column, ...] = told("Its columns.", [{"key": "run", "label": "Run", "unit": ""}])
    rows: tuple[dict[str, int | float | str | None], ...] = told("Its rows.", [{"run": "70B, full"}])
    timing: bool = told("Whether another run gives other figures.", False)


class ExperimentAnswer(Answer):
    """What was run about one matter."""

    name: str = told("Its name.", "identity")
    title: str = told("What it is about.", "Identity at initialisation")
    section: str = told("Where in the lesson the claims stand.", "2. LoRA")
    seconds: float = told("How long it took.", 1.4)
    claims: tuple[ClaimAnswer, ...] = told("The claims.", [{"id": "identity-lora"}])
    curves: tuple[CurveAnswer, ...] = told("What there is to draw.", [])
    tables: tuple[TableAnswer, ...] = told("Further figures.", [])


class ProvenAnswer(Answer):
    """The results of `python -m validation prove`."""

    environment: dict[str, Any] = told("Where, when and with which versions.", {"date": "2026-11-26"})
    experiments: tuple[ExperimentAnswer, ...] = told("What was run.", [{"name": "identity"}])

    def of(self, named: tuple[str, ...]) -> tuple[ExperimentAnswer, ...]:
        """The experiments that a chapter names, as far as they were run; `identity/dora` is its claims on that."""
        by_name = {experiment.name: experiment for experiment in self.experiments}
        pairs = [name.partition("/") for name in named]
        found = [_about(by_name[name], part) for name, _, part in pairs if name in by_name]
        return tuple(experiment for experiment in found if experiment.claims)


def _about(experiment: ExperimentAnswer, part: str) -> ExperimentAnswer:
    """An experiment, or only its claims on one thing."""
    if not part:
        return experiment
    claims = tuple(claim for claim in experiment.claims if part in claim.id.split("-"))
    return experiment.model_copy(update={"claims": claims, "curves": (), "tables": ()})


@cache
def proven() -> ProvenAnswer | None:
    """Everything that is committed; none in a copy without the results."""
    file = results.lesson()
    return None if file is None else ProvenAnswer.model_validate(file)
