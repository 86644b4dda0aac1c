"""The experiments on the lesson's claims: the results of `python -m validation prove`."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from app.api.accuracy import results
from app.api.answers.answer import Answer, described

Kind = Literal["holds", "holds within", "does not hold"]


class Figure(Answer):
    """A measured figure of a claim."""

    key: str = described("The figure's name in the claim.", "differing_float32")
    name: str = described("What is measured.", "logits that differ in any bit, in float32")
    value: int | float | None = described("The figure, or the median of several; null if it is not finite.", 0)
    unit: str = described("The unit; empty if there is none.", "logits")
    low: float | None = described("The lowest of several.", None)
    high: float | None = described("The highest of several.", None)
    of: int | None = described("The number of seeds or rounds.", None)
    timing: bool = described("Whether the figure varies between runs.", False)


class Check(Answer):
    """A condition on a figure for the claim to hold."""

    figure: str = described("The figure's key.", "differing_float32")
    relation: Literal["equal to", "at most", "at least", "between"] = described(
        "How the figure is compared.", "equal to"
    )
    bounds: tuple[float, ...] = described("What it is compared with.", [0])
    tolerance: bool = described("Whether the bound allows for rounding.", False)
    holds: bool = described("Whether the condition is met.", True)


class VerdictAnswer(Answer):
    """The verdict on a claim."""

    kind: Kind = described("The verdict.", "holds")
    words: str = described("The verdict in words.", "holds")


class ClaimAnswer(Answer):
    """A claim of the lesson: the experiment, its figures and the verdict."""

    id: str = described("The claim's name.", "identity-lora")
    lesson: str = described("What the lesson claims.", "With B = 0 the adapted model gives the base model's output.")
    done: str = described("The experiment.", "LoRA on every linear layer of a two-layer Llama, by PEFT.")
    figures: tuple[Figure, ...] = described("The figures.", [{"key": "differing_float32", "value": 0}])
    checks: tuple[Check, ...] = described("The conditions on the figures.", [{"figure": "differing_float32"}])
    verdict: VerdictAnswer = described("The verdict.", {"kind": "holds", "words": "holds"})
    remark: str | None = described("Where practice differs; null if it does not.", None)

    @property
    def deciding(self) -> tuple[Figure, ...]:
        """The figures that have a condition."""
        keys = {check.figure for check in self.checks}
        return tuple(figure for figure in self.figures if figure.key in keys)

    @property
    def other_figures(self) -> tuple[Figure, ...]:
        """The figures that have no condition."""
        return tuple(figure for figure in self.figures if figure not in self.deciding)


class Axis(Answer):
    """An axis of a curve."""

    label: str = described("The quantity.", "rank")
    unit: str = described("The unit; empty if there is none.", "")


class Series(Answer):
    """A series of points. Text on the x axis makes it a group of bars."""

    name: str = described("The name of the series.", "LoRA")
    x: tuple[int | float | str, ...] = described("The x values.", [1, 2, 4])
    y: tuple[int | float | None, ...] = described("The y values.", [0.91, 0.94, 0.96])
    low: tuple[float | None, ...] | None = described("The lowest of several.", None)
    high: tuple[float | None, ...] | None = described("The highest of several.", None)

    @property
    def bars(self) -> bool:
        """Whether the x values are names, not numbers."""
        return any(isinstance(x, str) for x in self.x)


class CurveAnswer(Answer):
    """A curve to draw."""

    id: str = described("The curve's name.", "accuracy-by-rank")
    title: str = described("The title.", "Accuracy by rank")
    x: Axis = described("The horizontal axis.", {"label": "rank", "unit": ""})
    y: Axis = described("The vertical axis.", {"label": "accuracy", "unit": ""})
    series: tuple[Series, ...] = described("The series.", [{"name": "LoRA", "x": [1], "y": [0.9]}])
    timing: bool = described("Whether the points vary between runs.", False)


class Column(Answer):
    """A column of a table."""

    key: str = described("The column's key in the rows.", "traced")
    label: str = described("The heading.", "Traced")
    unit: str = described("The unit; bytes are whole numbers.", "bytes")


class TableAnswer(Answer):
    """A table of figures."""

    id: str = described("The table's name.", "savings")
    title: str = described("The title.", "Memory savings")
    columns: tuple[Column, ...] = described("The columns.", [{"key": "run", "label": "Run", "unit": ""}])
    rows: tuple[dict[str, int | float | str | None], ...] = described("The rows.", [{"run": "70B, full"}])
    timing: bool = described("Whether the figures vary between runs.", False)


class ExperimentAnswer(Answer):
    """An experiment."""

    name: str = described("The experiment's name.", "identity")
    title: str = described("The title.", "Identity at initialization")
    section: str = described("The section of the lesson that makes the claims.", "2. LoRA")
    seconds: float = described("The duration in seconds.", 1.4)
    claims: tuple[ClaimAnswer, ...] = described("The claims.", [{"id": "identity-lora"}])
    curves: tuple[CurveAnswer, ...] = described("Curves to draw.", [])
    tables: tuple[TableAnswer, ...] = described("Tables of further figures.", [])


class ProvenAnswer(Answer):
    """The results of `python -m validation prove`."""

    environment: dict[str, Any] = described("The device, the date and the versions.", {"date": "2026-11-26"})
    experiments: tuple[ExperimentAnswer, ...] = described("The experiments.", [{"name": "identity"}])

    def named(self, names: tuple[str, ...]) -> tuple[ExperimentAnswer, ...]:
        """Return the named experiments that were run; `identity/dora` selects the claims on DoRA of `identity`."""
        by_name = {experiment.name: experiment for experiment in self.experiments}
        pairs = [name.partition("/") for name in names]
        parts = [_about(by_name[name], part) for name, _, part in pairs if name in by_name]
        return tuple(experiment for experiment in parts if experiment.claims)


def _about(experiment: ExperimentAnswer, part: str) -> ExperimentAnswer:
    """Return an experiment, or only its claims on one method."""
    if not part:
        return experiment
    claims = tuple(claim for claim in experiment.claims if part in claim.id.split("-"))
    return experiment.model_copy(update={"claims": claims, "curves": (), "tables": ()})


@cache
def proven() -> ProvenAnswer | None:
    """Return every committed result; None if the results are not installed."""
    file = results.lesson()
    return None if file is None else ProvenAnswer.model_validate(file)
