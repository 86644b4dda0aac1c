"""`/lesson`, `/lesson/{name}`, and their JSON versions."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import Request

from app.api.responses import json_response
from app.forms.plan_form import filled
from app.pages.lesson import drawings
from app.pages.lesson.answers import chapter_answer, lesson_answer
from app.pages.lesson.experiments import proven
from app.pages.lesson.form import BY_NAME, ChapterForm, TriedExample, read
from app.presentation.charts import methods_figure
from app.presentation.labels import COMPONENTS, parts
from app.presentation.templates import page
from calculator.common.errors import PlanError, Problem, refusal
from calculator.lesson import LESSON
from calculator.lesson.chapter import Chapter
from calculator.lesson.chapters import CHAPTERS
from calculator.lesson.papers import answered
from calculator.lesson.practice import PRACTICE
from calculator.lesson.questions import QUESTIONS
from calculator.lesson.table import COSTS, table

router = APIRouter(include_in_schema=False)


@router.get("/lesson")
def get_lesson() -> Response:
    """Show the table of contents."""
    return page(
        "lesson/contents.html",
        chapters=CHAPTERS,
        departing=[figure for figure in LESSON if not figure.holds],
        figures=LESSON,
        proven=proven(),
        title="The lesson, proven",
    )


@router.get("/lesson.json")
def get_lesson_json() -> Response:
    """Return the whole lesson as JSON, with its own numbers."""
    return json_response(lesson_answer())


@router.get("/lesson/{name}.json")
def get_chapter_json(name: str, request: Request) -> Response:
    """Return a chapter as JSON, with the inputs of the address in its examples."""
    form = read(_chapter(name), request.query_params.multi_items())
    if form.unknown:
        raise refusal(form.unknown[0], "unknown parameter: only the fields of the chapter are accepted", None)
    problems = [
        Problem(loc=name, msg=message, input=form.typed.get(name))
        for tried in form.tried()
        for name, message in tried.errors.items()
    ]
    if problems:
        raise PlanError(*problems)
    return json_response(chapter_answer(form))


@router.get("/lesson/{name}")
def get_chapter(name: str, request: Request) -> Response:
    """Show a chapter, with the inputs of the address in its examples."""
    return chapter_page(read(_chapter(name), request.query_params.multi_items()))


def chapter_page(form: ChapterForm) -> Response:
    """Return the page of a chapter: answers, or the typed text with error messages."""
    chapter = form.chapter
    tried = form.tried()
    wrong = any(example.errors for example in tried)
    number = CHAPTERS.index(chapter)
    results = proven()
    return page(
        f"lesson/{chapter.name}.html",
        422 if wrong else 200,
        address=f"/lesson/{chapter.name}{form.address()}",
        chapter=chapter,
        chapters=CHAPTERS,
        drawings=drawings,
        environment=results.environment if results else None,
        experiments=results.named(chapter.experiments) if results else (),
        form=form,
        number=number + 1,
        practice=PRACTICE[chapter.name]() if chapter.name in PRACTICE else (),
        tried=tried,
        title=f"Error: {chapter.title}" if wrong else chapter.title,
        **(_comparison(tried[0]) if chapter.name == "comparison" else {}),
        **({"questions": QUESTIONS} if chapter.name == "exercises" else {}),
        **({"papers": answered(), "addresses": _addresses()} if chapter.name == "papers" else {}),
    )


def _addresses() -> dict[str, str]:
    """Return the addresses of the estimate page for the papers' runs."""
    return {answer.run.name: f"/{filled(answer.run.request).address()}" for answer in answered() if not answer.refused}


def _chapter(name: str) -> Chapter:
    if name not in BY_NAME:
        raise HTTPException(404)
    return BY_NAME[name]


def _comparison(tried: TriedExample) -> dict[str, Any]:
    """Return the context of the comparison's table and chart."""
    if tried.settings is None or tried.errors:
        return {"rows": (), "costs": COSTS, "figure": None, "chart_components": {}}
    rows = table(tried.settings)
    plans = {row.row.method.facts.label: row.estimate for row in rows if row.estimate is not None}
    fit = next((plan.fit for plan in plans.values() if plan.fit), None)
    named = {part.component.name for plan in plans.values() for part in parts(plan.memory)}
    components = {name: component for name, component in COMPONENTS.items() if name in named}
    return {"rows": rows, "costs": COSTS, "figure": methods_figure(plans, fit), "chart_components": components}
