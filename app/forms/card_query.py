"""The filters of a GPU's rows: query parameters of the API and the page, and options of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from app.forms.fields import Field
from calculator.cards.query import CardQuery
from calculator.common.errors import PlanError, Problem, refusal
from calculator.inputs.settings import declared, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: The fields of the filters; the page's form has no input for the first row.
CARD_QUERY: dict[str, Field] = {option.name: Field(part="", declared=option) for option in declared(CardQuery)}

DEFAULTS: dict[str, str] = {name: field.text(field.declared.default) for name, field in CARD_QUERY.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class CardForm:
    """The typed text of every filter, and the names in the address that are not filters."""

    typed: Mapping[str, str]
    unknown: tuple[str, ...] = ()

    def query(self) -> CardQuery:
        """Return the filters.

        Raises:
            PlanError: with every value that is not accepted.
        """
        return query_of({name: field.value(self.typed[name]) for name, field in CARD_QUERY.items()})

    def address(self, **changes: str) -> str:
        """Return the query string of these filters, with changes."""
        changed = {name: text for name, text in {**self.typed, **changes}.items() if text != DEFAULTS[name]}
        return f"?{urlencode(changed)}" if changed else ""


def query_of(values: dict[str, Any]) -> CardQuery:
    """Return the filters with these values.

    Raises:
        PlanError: with every value that is not accepted, each at its name.
    """
    try:
        return parse(CardQuery, values, "")
    except PlanError as error:
        problems = (
            Problem(loc=problem.loc.removeprefix("."), msg=problem.msg, input=problem.input)
            for problem in error.problems
        )
        raise PlanError(*problems) from error


def read(pairs: Iterable[tuple[str, str]]) -> CardForm:
    """Return the filters of an address. The last of several values counts."""
    given = dict(pairs)
    typed = {name: given.get(name, default) for name, default in DEFAULTS.items()}
    return CardForm(typed=typed, unknown=tuple(sorted(given.keys() - DEFAULTS.keys())))


def read_strictly(pairs: Iterable[tuple[str, str]]) -> CardForm:
    """Return the filters of an address.

    Raises:
        PlanError: if the address has another parameter.
    """
    form = read(pairs)
    if form.unknown:
        parameters = ", ".join(CARD_QUERY)
        raise refusal(form.unknown[0], f"unknown parameter; known parameters are {parameters}", None)
    return form
