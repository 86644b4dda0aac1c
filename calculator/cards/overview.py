"""A summary of each GPU: how many models each method can train on it, and the largest of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from calculator.cards.card import fitting
from calculator.cards.settings import CARD_METHODS, group_of
from calculator.cards.table import table
from calculator.devices import gpus

if TYPE_CHECKING:
    from calculator.cards.settings import CardMethod
    from calculator.catalogue import ModelEntry
    from calculator.devices import GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodOnCard:
    """One method on a GPU: the models that fit, and the one with the most parameters, or None."""

    method: CardMethod
    models: int
    largest: ModelEntry | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CardSummary:
    """A GPU, and what each method can train on it."""

    card: GPU
    methods: tuple[MethodOnCard, ...]


@cache
def overview() -> tuple[CardSummary, ...]:
    """Return a summary of every GPU of the catalogue, the smallest GPU first."""
    cards = sorted(gpus(), key=lambda card: card.usable_bytes)
    return tuple(CardSummary(card=card, methods=_methods(card)) for card in cards)


def _methods(card: GPU) -> tuple[MethodOnCard, ...]:
    group = group_of(card)
    entries_by_method: dict[CardMethod, list[ModelEntry]] = {method: [] for method in CARD_METHODS}
    for runs in table():
        if fitting(runs, card, group):
            entries_by_method[runs.method].append(runs.entry)
    return tuple(
        MethodOnCard(
            method=method,
            models=len(entries),
            largest=max(entries, key=lambda entry: entry.parameters, default=None),
        )
        for method, entries in entries_by_method.items()
    )
