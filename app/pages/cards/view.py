"""The rows of a GPU as the page shows them, with links to the plans behind their figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from app.api.answers.cards import CardAnswer, CardRowAnswer, card_answer
from app.forms import messages as form_messages
from app.forms.plan_form import filled
from calculator import catalogue
from calculator.cards.settings import task_of
from calculator.common.errors import PlanError
from calculator.estimation.traced.check import modeled_models

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.forms.card_query import CardForm
    from calculator.cards.query import SortKey
    from calculator.devices import GPU

#: The columns that the rows can be sorted by, with their headings.
COLUMNS: dict[SortKey, str] = {
    "model": "Model",
    "method": "Method",
    "parameters": "Parameters",
    "required_bytes": "Needs at least",
    "sequence_length": "Longest sequence",
    "micro_batch_size": "Largest micro-batch",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A heading: its label, how the rows are sorted by it now (an `aria-sort` value), and the address that sorts."""

    label: str
    sorted: str
    address: str


def answered(card: GPU, form: CardForm) -> tuple[CardAnswer | None, Mapping[str, str]]:
    """Return the rows of a GPU, or the messages of the filters that are not accepted."""
    try:
        return card_answer(card, form.query()), {}
    except PlanError as error:
        return None, form_messages.messages(error.problems, {"config": "", **form.typed}, str)


def columns(form: CardForm) -> tuple[Column, ...]:
    """Return the headings. A second click on a heading reverses the order."""
    return tuple(_column(form, name, label) for name, label in COLUMNS.items())


def _column(form: CardForm, name: SortKey, label: str) -> Column:
    current = form.typed["sort"] == name
    order = form.typed["order"]
    first = "ascending" if name in ("model", "method") else "descending"
    other = "ascending" if order == "descending" else "descending"
    address = form.address(sort=name, order=other if current else first, offset="0")
    return Column(label=label, sorted=order if current else "none", address=address or "?")


def pages(form: CardForm, answer: CardAnswer) -> dict[str, str]:
    """Return the addresses of the rows before and after those of the answer, by the text of the link."""
    query = form.query()
    by_address = {}
    if query.offset:
        by_address["Previous rows"] = form.address(offset=str(max(0, query.offset - query.limit))) or "?"
    if query.offset + len(answer.rows) < answer.total and answer.rows:
        by_address["Next rows"] = form.address(offset=str(query.offset + query.limit))
    return by_address


def without_rows(answer: CardAnswer) -> tuple[str, ...]:
    """Return sentences without full stops on the models of the catalogue that have no rows, and why not."""
    modeled = {entry.id for entry in modeled_models()}
    newer = [name for name in answer.missing if name in modeled]
    traced = [name for name in answer.missing if name not in modeled]
    sentences = []
    if newer:
        sentences.append(f"Models that were added after the table was computed have no rows: {', '.join(newer)}")
    if traced:
        why = "because only a trace of the real modules gives their memory, which takes minutes for each run"
        sentences.append(f"These models of the catalogue have no rows, {why}: {', '.join(traced)}")
    return tuple(sentences)


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """The addresses behind a row; without a request, that of the plan page only."""

    #: Empty for a model that the plan page does not take: of another task than causal_lm.
    plan: str
    #: The estimate with the longest sequence that fits, or with the shortest one.
    longest: str
    #: The estimate with the largest micro-batch that fits; empty if none does.
    largest: str
    limits: str


def links(row: CardRowAnswer, card: str) -> Links:
    """Return the addresses behind a row."""
    is_planned = task_of(catalogue.model(row.model)) == "causal_lm"
    plan = f"/plan?{urlencode({'model': row.model, 'gpu': card})}" if is_planned else ""
    if row.request is None:
        return Links(plan=plan, longest="", largest="", limits="")
    form = filled(row.request)
    query = {"gpu": card, "task": row.request["task"]}
    longest = form.address(**query)
    sizes = {"micro_batch_size": str(row.micro_batch_size), "sequence_length": str(row.batch_sequence_length)}
    largest = f"/{form.address(**query, **sizes)}" if row.micro_batch_size else ""
    return Links(plan=plan, longest=f"/{longest}", largest=largest, limits=f"/limits{longest}")
