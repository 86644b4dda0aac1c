"""Answer of `POST /api/v1/compare`: one row per method."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from app.api.answers.answer import Answer, described, described_as
from app.api.answers.estimate import ComparedEstimateAnswer, settings
from app.api.answers.methods import MethodAnswer
from app.http.problems import ProblemError
from calculator.comparison.methods import ComparisonRow


class AlternativeAnswer(Answer):
    """The closest combination that the libraries accept."""

    changes: dict[str, Any] = described(
        "The settings that differ, by dotted path.", {"training.gradient_checkpointing": False}
    )
    estimate: ComparedEstimateAnswer = described(
        "The estimate with these settings.", {"memory": {"peak_allocated_bytes": 9_341_251_584}}
    )


class ComparisonRowAnswer(Answer):
    """One method of the comparison."""

    method: dict[str, Any] = described("The method with every setting.", {"name": "lora", "r": 16})
    label: str = described_as(MethodAnswer, "label")
    trainable: str = described_as(MethodAnswer, "trainable")
    inference_overhead: str = described_as(MethodAnswer, "inference_overhead")
    mergeable: bool | None = described_as(MethodAnswer, "mergeable")
    best_for: str = described_as(MethodAnswer, "best_for")
    source: str = described_as(MethodAnswer, "source")
    estimate: ComparedEstimateAnswer | None = described("The estimate; null if the combination is refused.", None)
    problems: tuple[ProblemError, ...] = described("Why the combination is refused; empty if it is not.", [])
    alternative: AlternativeAnswer | None = described(
        "If the combination is refused, the closest one that is accepted; null if there is none.", None
    )


class CompareAnswer(Answer):
    """The methods, side by side."""

    rows: tuple[ComparisonRowAnswer, ...] = described(
        "One row per method, in the requested order.", [{"label": "LoRA"}]
    )


def compare_answer(rows: Iterable[ComparisonRow]) -> CompareAnswer:
    """Convert a comparison's rows to the API's answer."""
    return CompareAnswer(rows=tuple(_row(row) for row in rows))


def _row(row: ComparisonRow) -> ComparisonRowAnswer:
    outcome = {name: getattr(row, name) for name in ("estimate", "problems", "alternative")}
    return ComparisonRowAnswer.model_validate(
        {"method": settings(row.method), **asdict(row.method.facts), **outcome}, from_attributes=True
    )
