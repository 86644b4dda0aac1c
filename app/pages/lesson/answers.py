"""The lesson's JSON twins: every formula, worked example, figure and result that its pages show."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from app.api.answers.estimate import Answer, described
from app.pages.lesson.experiments import ExperimentAnswer, proven
from app.pages.lesson.form import ChapterForm, Tried, read
from calculator.lesson.chapters import CHAPTERS
from calculator.lesson.practice import PRACTICE
from calculator.lesson.questions import QUESTIONS


class FormulaAnswer(Answer):
    """A formula."""

    text: str = described("The formula on a line, as TeX spells fractions.", r"h = W_0 x + \frac{α}{r} B A x")
    says: str = described("What it is.", "the forward pass")


class LineAnswer(Answer):
    """A line of arithmetic."""

    name: str = described("What it is.", "a matrix")
    formula: str = described("In names.", "r × (d + k)")
    substituted: str = described("With numbers.", "8 × (4,096 + 4,096)")
    value: int | float | tuple[tuple[float, ...], ...] = described("What comes out; a matrix by its rows.", 65_536)
    unit: str = described("Its unit; empty where it has none.", "parameters")


class TriedAnswer(Answer):
    """A worked example with its inputs and what comes of them."""

    name: str = described("Its name, which stands before its inputs in the address.", "count")
    title: str = described("Its title.", "Parameters of the update")
    inputs: dict[str, Any] = described("What is put in.", {"d": 4096, "r": 8})
    lines: tuple[LineAnswer, ...] = described("What comes out.", [{"name": "a matrix", "value": 65_536}])


class FigureAnswer(Answer):
    """A figure of the lesson beside what its formula gives."""

    section: str = described("Where the lesson has it.", "Problem 1")
    claim: str = described("What it is of.", "compression")
    low: float = described("What the lesson says, from ...", 51.2)
    high: float = described("... to.", 51.2)
    decimals: int = described("The decimals that the lesson states; negative for tens.", 1)
    unit: str = described("Its unit.", "×")
    formula: str = described("The formula.", "d × k ÷ (r × (d + k))")
    exact: float = described("What the formula gives.", 51.2)
    holds: bool = described("Whether that is what the lesson says, at its precision.", True)
    remark: str | None = described("What there is to say of it.", None)


class ChapterAnswer(Answer):
    """A chapter."""

    name: str = described("Its name in the address.", "lora")
    title: str = described("Its title.", "LoRA")
    summary: str = described("What it is about.", "A low-rank update beside frozen weights.")
    formulas: tuple[FormulaAnswer, ...] = described("Its formulas.", [{"text": "r (d + k)"}])
    examples: tuple[TriedAnswer, ...] = described("Its worked examples.", [{"name": "count"}])
    figures: tuple[FigureAnswer, ...] = described("The lesson's figures beside ours.", [])
    practice: tuple[LineAnswer, ...] = described("Where practice departs from the rule of thumb.", [])
    experiments: tuple[ExperimentAnswer, ...] = described("What was run.", [])


class QuestionAnswer(Answer):
    """A worked example or practice problem of the lesson."""

    name: str = described("Its name.", "problem-1")
    title: str = described("Its title.", "Problem 1: compression")
    asks: str = described("What it asks.", "W is 1024 × 4096 and r = 16.")
    lesson: str = described("The lesson's answer.", "81,920; 51.2 times smaller.")
    ours: str = described("Ours.", "The same.")
    figures: tuple[FigureAnswer, ...] = described("Its figures, the lesson's beside ours.", [])
    lines: tuple[LineAnswer, ...] = described("Further figures of ours.", [])


class LessonAnswer(Answer):
    """The lesson, at its own numbers."""

    chapters: tuple[ChapterAnswer, ...] = described("Its chapters.", [{"name": "lora"}])
    questions: tuple[QuestionAnswer, ...] = described("Its worked examples and problems.", [{"name": "problem-1"}])
    environment: dict[str, Any] | None = described("With what the experiments were run; null without results.", None)


def chapter_answer(form: ChapterForm) -> ChapterAnswer:
    """A chapter with what is typed into its examples, all of which have an answer."""
    chapter, results = form.chapter, proven()
    practice = PRACTICE[chapter.name]() if chapter.name in PRACTICE else ()
    return ChapterAnswer(
        name=chapter.name,
        title=chapter.title,
        summary=chapter.summary,
        formulas=tuple(FormulaAnswer.model_validate(formula) for formula in chapter.formulas),
        examples=tuple(_tried(tried) for tried in form.tried()),
        figures=tuple(FigureAnswer.model_validate(figure) for figure in chapter.figures),
        practice=tuple(LineAnswer.model_validate(line) for line in practice),
        experiments=results.of(chapter.experiments) if results else (),
    )


def lesson_answer() -> LessonAnswer:
    """Every chapter and question."""
    results = proven()
    return LessonAnswer(
        chapters=tuple(chapter_answer(read(chapter, ())) for chapter in CHAPTERS),
        questions=tuple(QuestionAnswer.model_validate(question) for question in QUESTIONS),
        environment=results.environment if results else None,
    )


def _tried(tried: Tried) -> TriedAnswer:
    return TriedAnswer(
        name=tried.worked.name,
        title=tried.worked.title,
        inputs=asdict(tried.settings),
        lines=tuple(LineAnswer.model_validate(line) for line in tried.lines),
    )
