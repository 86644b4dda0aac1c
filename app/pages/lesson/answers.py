"""The answers of `/lesson.json` and `/lesson/{name}.json`: formulas, worked examples, figures and results."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from app.api.answers.answer import Answer, described
from app.pages.lesson.experiments import ExperimentAnswer, proven
from app.pages.lesson.form import ChapterForm, TriedExample, read
from calculator.lesson.chapters import CHAPTERS
from calculator.lesson.papers import answered
from calculator.lesson.practice import PRACTICE
from calculator.lesson.questions import QUESTIONS


class FormulaAnswer(Answer):
    """A formula."""

    text: str = described("The formula in a TeX-like notation.", r"h = W_0 x + \frac{α}{r} B A x")
    says: str = described("What the formula computes.", "the forward pass")


class LineAnswer(Answer):
    """A line of arithmetic."""

    name: str = described("What is computed.", "a matrix")
    formula: str = described("The formula.", "r × (d + k)")
    substituted: str = described("The formula with numbers.", "8 × (4,096 + 4,096)")
    value: int | float | tuple[tuple[float, ...], ...] = described("The result; a matrix as a list of rows.", 65_536)
    unit: str = described("The unit; empty if there is none.", "parameters")


class TriedAnswer(Answer):
    """A worked example with its inputs and result."""

    name: str = described("The example's name: the prefix of its fields in the address.", "count")
    title: str = described("The title.", "Parameters of the update")
    inputs: dict[str, Any] = described("The inputs.", {"d": 4096, "r": 8})
    lines: tuple[LineAnswer, ...] = described("The calculation.", [{"name": "a matrix", "value": 65_536}])


class FigureAnswer(Answer):
    """A figure that the lesson states, compared with its formula."""

    section: str = described("The section of the lesson.", "Problem 1")
    claim: str = described("What the figure measures.", "compression")
    low: float = described("The lower end of what the lesson states.", 51.2)
    high: float = described("The upper end of what the lesson states.", 51.2)
    decimals: int = described("The number of decimals that the lesson states; negative for tens.", 1)
    unit: str = described("The unit.", "×")
    formula: str = described("The formula.", "d × k ÷ (r × (d + k))")
    exact: float = described("The result of the formula.", 51.2)
    holds: bool = described("Whether the lesson's figure is correct at its precision.", True)
    remark: str | None = described("A remark; null if there is none.", None)


class ChapterAnswer(Answer):
    """A chapter."""

    name: str = described("The chapter's name in the address.", "lora")
    title: str = described("The title.", "LoRA")
    summary: str = described("What the chapter is about.", "A low-rank update added to frozen weights.")
    formulas: tuple[FormulaAnswer, ...] = described("The formulas.", [{"text": "r (d + k)"}])
    examples: tuple[TriedAnswer, ...] = described("The worked examples.", [{"name": "count"}])
    figures: tuple[FigureAnswer, ...] = described("The lesson's figures, compared with their formulas.", [])
    practice: tuple[LineAnswer, ...] = described("Where practice differs from the rule of thumb.", [])
    experiments: tuple[ExperimentAnswer, ...] = described("The experiments.", [])


class QuestionAnswer(Answer):
    """A worked example or practice problem of the lesson."""

    name: str = described("The name.", "problem-1")
    title: str = described("The title.", "Problem 1: compression")
    asks: str = described("The question.", "W is 1024 × 4096 and r = 16.")
    lesson: str = described("The lesson's answer.", "81,920; 51.2 times smaller.")
    ours: str = described("Our answer.", "The same.")
    figures: tuple[FigureAnswer, ...] = described("The lesson's figures, compared with their formulas.", [])
    lines: tuple[LineAnswer, ...] = described("Further figures.", [])


class PaperRunAnswer(Answer):
    """A run of the paper that introduced a method."""

    name: str = described("The name.", "lora-glue")
    title: str = described("The title.", "RoBERTa-large, LoRA on GLUE")
    paper: str = described("The paper.", "Hu et al. 2021, LoRA")
    source: str = described("Its address.", "https://arxiv.org/abs/2106.09685")
    run: str = described("What the paper runs.", "MNLI, three labels: r 8.")
    stated: str = described("What the paper states.", "0.8 million trained parameters (table 2)")
    assumed: str = described("What the request sets that the paper does not state.", "Weights in float32.")
    request: dict[str, Any] = described("The request for an estimate.", {"model": "FacebookAI/roberta-large"})
    lines: tuple[LineAnswer, ...] = described("The answer to the request.", [{"name": "peak of the step"}])
    refused: tuple[str, ...] = described("Why the request has no answer yet; empty if it has one.", [])


class LessonAnswer(Answer):
    """The whole lesson, with its own numbers."""

    chapters: tuple[ChapterAnswer, ...] = described("The chapters.", [{"name": "lora"}])
    questions: tuple[QuestionAnswer, ...] = described("The worked examples and problems.", [{"name": "problem-1"}])
    papers: tuple[PaperRunAnswer, ...] = described("The papers' own runs.", [{"name": "lora-glue"}])
    environment: dict[str, Any] | None = described("The environment of the experiments; null without results.", None)


def chapter_answer(form: ChapterForm) -> ChapterAnswer:
    """Return a chapter's answer. Every example of the form must have a result."""
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
        experiments=results.named(chapter.experiments) if results else (),
    )


def lesson_answer() -> LessonAnswer:
    """Return the answer of the whole lesson."""
    results = proven()
    return LessonAnswer(
        chapters=tuple(chapter_answer(read(chapter, ())) for chapter in CHAPTERS),
        questions=tuple(QuestionAnswer.model_validate(question) for question in QUESTIONS),
        papers=tuple(
            PaperRunAnswer.model_validate({**asdict(answer.run), "lines": answer.lines, "refused": answer.refused})
            for answer in answered()
        ),
        environment=results.environment if results else None,
    )


def _tried(tried: TriedExample) -> TriedAnswer:
    return TriedAnswer(
        name=tried.worked.name,
        title=tried.worked.title,
        inputs=asdict(tried.settings),
        lines=tuple(LineAnswer.model_validate(line) for line in tried.lines),
    )
