"""The forms of a chapter's worked examples, and their results."""

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
    from calculator.lesson.worked.line import Line, WorkedExample

BY_NAME: dict[str, Chapter] = {chapter.name: chapter for chapter in CHAPTERS}


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedExample:
    """A worked example with the reader's inputs: its result, or error messages by field."""

    worked: WorkedExample
    fields: tuple[Field, ...]
    #: The parsed inputs.
    settings: Any = None
    lines: tuple[Line, ...] = ()
    errors: Mapping[str, str]
    #: The address of the estimate page that checks the same run.
    plan: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChapterForm:
    """The typed text of every field of a chapter, and the names in the address that no field has."""

    chapter: Chapter
    typed: Mapping[str, str]
    unknown: tuple[str, ...] = ()

    def query(self) -> dict[str, str]:
        """Return the fields that differ from the lesson's own numbers."""
        initial = defaults(self.chapter)
        return {name: value for name, value in self.typed.items() if value != initial[name]}

    def address(self) -> str:
        """Return the query string of this form."""
        fields = self.query()
        return f"?{urlencode(fields)}" if fields else ""

    def other_fields(self, worked: WorkedExample) -> dict[str, str]:
        """Return the fields of the chapter's other examples, which the form of an example submits as hidden fields."""
        names = {field.name for field in fields_of(worked)}
        return {name: value for name, value in self.query().items() if name not in names}

    def tried(self) -> tuple[TriedExample, ...]:
        """Return every worked example with its inputs and result."""
        return tuple(_tried(worked, self.typed) for worked in self.chapter.worked)


@cache
def fields_of(worked: WorkedExample) -> tuple[Field, ...]:
    """Return the fields of an example. The example's name is their prefix, because a page has several examples."""
    return tuple(
        Field(part=worked.name, declared=replace(declaration, name=f"{worked.name}-{declaration.name}"))
        for declaration in declared(worked.settings)
    )


@cache
def defaults(chapter: Chapter) -> dict[str, str]:
    """Return the lesson's own numbers, as the fields show them."""
    return {field.name: field.text(field.declared.default) for worked in chapter.worked for field in fields_of(worked)}


def read(chapter: Chapter, pairs: Iterable[tuple[str, str]]) -> ChapterForm:
    """Return the form of an address. The last of several values counts; missing fields get the lesson's numbers."""
    submitted, initial = dict(pairs), defaults(chapter)
    typed = {name: submitted.get(name, value) for name, value in initial.items()}
    return ChapterForm(chapter=chapter, typed=typed, unknown=tuple(sorted(submitted.keys() - initial.keys())))


def _tried(worked: WorkedExample, typed: Mapping[str, str]) -> TriedExample:
    fields = fields_of(worked)
    body = {field.name.removeprefix(f"{worked.name}-"): field.value(typed[field.name]) for field in fields}
    try:
        settings: Any = parse(worked.settings, body, worked.name)
        lines = worked.lines(settings)
    except PlanError as error:
        return TriedExample(worked=worked, fields=fields, errors=_messages(worked, error.problems))
    plan = f"/{filled(worked.request(settings)).address()}" if worked.request else ""
    return TriedExample(worked=worked, fields=fields, settings=settings, lines=lines, errors={}, plan=plan)


def _messages(worked: WorkedExample, problems: Iterable[Problem]) -> dict[str, str]:
    """Return the messages by field; problems of no single field have the empty name."""
    declared_names = {field.name for field in fields_of(worked)}
    messages: dict[str, str] = {}
    for problem in problems:
        names = [f"{worked.name}-{part}" for part in reversed(problem.loc.split("."))]
        messages.setdefault(next((name for name in names if name in declared_names), ""), problem.msg)
    return messages
