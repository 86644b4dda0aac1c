"""What was run for the lesson's claims, as `python -m validation prove` wrote it."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from app.api.accuracy import results
from app.api.answers.estimate import Answer, described

Kind = Literal["holds", "holds within", "does not hold"]


class Figure(Answer):
    """A figure that a claim is held against."""

    key: str = described("Its name in the claim.", "differing_float32")
    name: str = described("What it is.", "logits that differ in any bit, in float32")
    value: int | float | None = described("The figure; the median of several; null where it is not finite.", 0)
    unit: str = described("Its unit; empty where it has none.", "logits")
    low: float | None = described("The lowest of several.", None)
    high: float | None = described("The highest of several.", None)
    of: int | None = described("How many seeds or rounds the spread is of.", None)
    timing: bool = described("Whether another run gives another figure.", False)


class Check(Answer):
    """What a figure had to be for the claim to hold."""

    figure: str = described("The figure's key.", "differing_float32")
    relation: Literal["equal to", "at most", "at least", "between"] = described("How it is held.", "equal to")
    bounds: tuple[float, ...] = described("Against what.", [0])
    tolerance: bool = described("Whether the bound allows for rounding.", False)
    holds: bool = described("Whether it does.", True)


class VerdictAnswer(Answer):
    """What became of a claim."""

    kind: Kind = described("The verdict.", "holds")
    words: str = described("The verdict as a sentence.", "holds")


class ClaimAnswer(Answer):
    """A claim of the lesson: what it says, what was run, the figures, and what became of it."""

    id: str = described("Its name.", "identity-lora")
    lesson: str = described("What the lesson says.", "With B = 0 the adapted model gives the base model's output.")
    done: str = described("What was run.", "LoRA on every linear layer of a two-layer Llama, by PEFT.")
    figures: tuple[Figure, ...] = described("The figures.", [{"key": "differing_float32", "value": 0}])
    checks: tuple[Check, ...] = described("What they had to be.", [{"figure": "differing_float32"}])
    verdict: VerdictAnswer = described("What became of it.", {"kind": "holds", "words": "holds"})
    remark: str | None = described("Where practice departs from it.", None)

    @property
    def deciding(self) -> tuple[Figure, ...]:
        """The figures that decide."""
        keys = {check.figure for check in self.checks}
        return tuple(figure for figure in self.figures if figure.key in keys)

    @property
    def other_figures(self) -> tuple[Figure, ...]:
        """The others."""
        return tuple(figure for figure in self.figures if figure not in self.deciding)


class Axis(Answer):
    """What a curve is over, or of."""

    label: str = described("What.", "rank")
    unit: str = described("In what; empty where it has none.", "")


class Series(Answer):
    """Points of one kind; text on x is a group of bars."""

    name: str = described("What they are of.", "LoRA")
    x: tuple[int | float | str, ...] = described("Where.", [1, 2, 4])
    y: tuple[int | float | None, ...] = described("How much.", [0.91, 0.94, 0.96])
    low: tuple[float | None, ...] | None = described("The lowest of several.", None)
    high: tuple[float | None, ...] | None = described("The highest of several.", None)

    @property
    def bars(self) -> bool:
        """Whether x names things, and does not count."""
        return any(isinstance(x, str) for x in self.x)


class CurveAnswer(Answer):
    """Something to draw."""

    id: str = described("Its name.", "accuracy-by-rank")
    title: str = described("What it shows.", "Accuracy by rank")
    x: Axis = described("Its horizontal axis.", {"label": "rank", "unit": ""})
    y: Axis = described("Its vertical axis.", {"label": "accuracy", "unit": ""})
    series: tuple[Series, ...] = described("What is drawn.", [{"name": "LoRA", "x": [1], "y": [0.9]}])
    timing: bool = described("Whether another run gives other points.", False)


class Column(Answer):
    """A table's column."""

    key: str = described("Its key in the rows.", "traced")
    label: str = described("Its head.", "Traced")
    unit: str = described("Its unit; bytes are whole.", "bytes")


class TableAnswer(Answer):
    """Figures by row and column."""

    id: str = described("Its name.", "savings")
    title: str = described("What it shows.", "Memory savings")
    columns: tuple[Column, ...] = described("Its columns.", [{"key": "run", "label": "Run", "unit": ""}])
    rows: tuple[dict[str, int | float | str | None], ...] = described("Its rows.", [{"run": "70B, full"}])
    timing: bool = described("Whether another run gives other figures.", False)


class ExperimentAnswer(Answer):
    """What was run about one matter."""

    name: str = described("Its name.", "identity")
    title: str = described("What it is about.", "Identity at initialisation")
    section: str = described("Where in the lesson the claims stand.", "2. LoRA")
    seconds: float = described("How long it took.", 1.4)
    claims: tuple[ClaimAnswer, ...] = described("The claims.", [{"id": "identity-lora"}])
    curves: tuple[CurveAnswer, ...] = described("What there is to draw.", [])
    tables: tuple[TableAnswer, ...] = described("Further figures.", [])


class ProvenAnswer(Answer):
    """The results of `python -m validation prove`."""

    environment: dict[str, Any] = described("Where, when and with which versions.", {"date": "2026-11-26"})
    experiments: tuple[ExperimentAnswer, ...] = described("What was run.", [{"name": "identity"}])

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
