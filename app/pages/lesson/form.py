"""What a reader types into a chapter's worked examples, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from app.forms.fields import Field
from app.forms.plan_form import filled
from calculator.common.errors import PlanError
from calculator.inputs.settings import declared, parse
from calculator.lesson.chapters import CHAPTERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from calculator.common.errors import Problem
    from calculator.lesson.chapter import Chapter
    from calculator.lesson.worked.line import Line, Worked

BY_NAME: dict[str, Chapter] = {chapter.name: chapter for chapter in CHAPTERS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A worked example with what is typed: its answer, or what is wrong, by input.

    `settings` are the inputs as they were read; `plan` is the address of the page that checks the same run.
    """

    worked: Worked
    fields: tuple[Field, ...]
    settings: Any = None
    lines: tuple[Line, ...] = ()
    errors: Mapping[str, str]
    plan: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChapterForm:
    """What is typed into a chapter, by input, and the names in the address that no input has."""

    chapter: Chapter
    typed: Mapping[str, str]
    unknown: tuple[str, ...] = ()

    def differing(self) -> dict[str, str]:
        """What differs from the lesson's own numbers."""
        usual = defaults(self.chapter)
        return {name: value for name, value in self.typed.items() if value != usual[name]}

    def address(self) -> str:
        """The query that leads to this."""
        query = self.differing()
        return f"?{urlencode(query)}" if query else ""

    def elsewhere(self, worked: Worked) -> dict[str, str]:
        """What is typed into the chapter's other examples, which a form carries along."""
        own = {field.name for field in fields_of(worked)}
        return {name: value for name, value in self.differing().items() if name not in own}

    def tried(self) -> tuple[Tried, ...]:
        """Every worked example with what is typed for it."""
        return tuple(_tried(worked, self.typed) for worked in self.chapter.worked)


@cache
def fields_of(worked: Worked) -> tuple[Field, ...]:
    """An example's inputs; the example's name stands before each, since a page has several examples."""
    return tuple(
        Field(part=worked.name, declared=replace(declaration, name=f"{worked.name}-{declaration.name}"))
        for declaration in declared(worked.settings)
    )


@cache
def defaults(chapter: Chapter) -> dict[str, str]:
    """The lesson's own numbers, as the inputs show them."""
    return {field.name: field.text(field.declared.default) for worked in chapter.worked for field in fields_of(worked)}


def read(chapter: Chapter, pairs: Iterable[tuple[str, str]]) -> ChapterForm:
    """The form as an address gives it; the last of several values counts, what is absent is the lesson's."""
    given, usual = dict(pairs), defaults(chapter)
    typed = {name: given.get(name, value) for name, value in usual.items()}
    return ChapterForm(chapter=chapter, typed=typed, unknown=tuple(sorted(given.keys() - usual.keys())))


def _tried(worked: Worked, typed: Mapping[str, str]) -> Tried:
    fields = fields_of(worked)
    body = {field.name.removeprefix(f"{worked.name}-"): field.value(typed[field.name]) for field in fields}
    try:
        settings: Any = parse(worked.settings, body, worked.name)
        lines = worked.lines(settings)
    except PlanError as error:
        return Tried(worked=worked, fields=fields, errors=_messages(worked, error.problems))
    plan = f"/{filled(worked.request(settings)).address()}" if worked.request else ""
    return Tried(worked=worked, fields=fields, settings=settings, lines=lines, errors={}, plan=plan)


def _messages(worked: Worked, problems: Iterable[Problem]) -> dict[str, str]:
    """What is wrong, by input; what is of no single input stands under the empty name."""
    known = {field.name for field in fields_of(worked)}
    messages: dict[str, str] = {}
    for problem in problems:
        names = [f"{worked.name}-{part}" for part in reversed(problem.loc.split("."))]
        messages.setdefault(next((name for name in names if name in known), ""), problem.msg)
    return messages
