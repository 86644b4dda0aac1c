"""The rows of `/models`: a page of the model types, with the addresses of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

if TYPE_CHECKING:
    from app.api.answers.model_types import ModelTypeAnswer

#: The labels of the engines that estimate a type. The empty name has all types.
ENGINES = {"": "any engine, or none", "calculator": "calculator", "traced": "trace", "none": "not supported"}

#: The types of a page.
PER_PAGE = 25

#: Reasons that are longer, in characters, are shown in full on demand.
LONG_REASON = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class PageOfTypes:
    """A page of the model types that match a search and an engine."""

    #: The types that match the search, of every engine.
    matching: tuple[ModelTypeAnswer, ...]
    query: str
    #: A name in `ENGINES`.
    engine: str
    #: The `page` parameter of the URL.
    number: str

    @property
    def types(self) -> tuple[ModelTypeAnswer, ...]:
        """The types of all pages."""
        return tuple(model_type for model_type in self.matching if self.engine in ("", model_type.engine or "none"))

    @property
    def count(self) -> int:
        """The number of pages."""
        return max(1, -(-len(self.types) // PER_PAGE))

    @property
    def current(self) -> int:
        """The page's number, from 1 on. A number that is not a page's counts as the first."""
        number = int(self.number) if self.number.isdecimal() and len(self.number) < 4 else 1
        return number if 1 <= number <= self.count else 1

    @property
    def rows(self) -> tuple[ModelTypeAnswer, ...]:
        """The types of the page."""
        return self.types[(self.current - 1) * PER_PAGE : self.current * PER_PAGE]

    @property
    def first_row(self) -> int:
        """The number of the page's first type among all, from 1 on."""
        return (self.current - 1) * PER_PAGE + 1

    @property
    def pages(self) -> dict[int, str]:
        """The address of each page."""
        return {number: self.address(page=str(number)) for number in range(1, self.count + 1)}

    def count_of_engine(self, engine: str) -> int:
        """Return how many of the matching types an engine estimates."""
        return sum(engine in ("", model_type.engine or "none") for model_type in self.matching)

    def address(self, **changes: str) -> str:
        """Return the address of another page, engine or search. It is the first page unless a number is given."""
        given = {"q": self.query, "engine": self.engine, **changes}
        query = urlencode({name: value for name, value in given.items() if value})
        return f"/models?{query}#types-title" if query else "/models#types-title"
