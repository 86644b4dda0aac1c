"""The table: what each run of the catalogue reserves on each group of cards, read from `catalogue/cards.json`.

`python -m validation cards` computes it again. Sizes are whole segments of the caching allocator.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from calculator import catalogue
from calculator.allocator.segments import SMALL_SEGMENT
from calculator.cards.settings import BATCH_LENGTH, BATCHES, LENGTHS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.cards.settings import CardMethod
    from calculator.catalogue import ModelEntry

FILE = "cards.json"

#: The size in which the table counts: every segment is a multiple of it.
SEGMENT = SMALL_SEGMENT

#: A run's micro-batch size and sequence length.
Sizes = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """The runs of one model and method: the bytes that each reserves, by the group of cards and the sizes.

    A group has all lengths, and all batches, up to the first whose live tensors no card of the group has room for.
    """

    entry: ModelEntry
    method: CardMethod
    #: What differs from the table's settings, by its path in a request.
    changes: Mapping[str, Any]
    #: Why the model is not trained with the method; empty if it is.
    refusal: str
    #: The longest sequence that the model's context, or the request's field, allows.
    context: int
    reserved: Mapping[str, Mapping[Sizes, int]]
    #: The runs that fit their card by what they reserve, and do not by a replay on it.
    unfit: Mapping[str, frozenset[Sizes]]

    @property
    def batch_length(self) -> int:
        """The sequence length of the micro-batches."""
        return batch_length(self.context)


def lengths(context: int) -> tuple[int, ...]:
    """The lengths that are tried within a context."""
    return tuple(length for length in LENGTHS if length <= context)


def batch_length(context: int) -> int:
    """The sequence length of the micro-batches that are tried."""
    return max(length for length in lengths(context) if length <= BATCH_LENGTH)


@cache
def table() -> tuple[Runs, ...]:
    """Every model and method, in the catalogue's order."""
    file = catalogue.read(FILE)
    return tuple(_runs(row, file["groups"]) for row in file["rows"])


@cache
def missing() -> tuple[str, ...]:
    """The models of the catalogue that the table lacks: those added after it was computed, and those only traced."""
    known = {runs.entry.id for runs in table()}
    return tuple(entry.id for entry in catalogue.models() if entry.id not in known)


def _runs(row: dict[str, Any], groups: list[str]) -> Runs:
    return Runs(
        entry=catalogue.model(row["model"]),
        method=row["method"],
        changes=row.get("changes", {}),
        refusal=row.get("refusal", ""),
        context=row.get("context", 0),
        reserved={
            group: _sizes(row["context"], *runs) for group, runs in zip(groups, row.get("reserved", ()), strict=False)
        },
        unfit={card: frozenset(map(tuple, sizes)) for card, sizes in row.get("unfit", {}).items()},
    )


def _sizes(context: int, by_length: list[int], by_batch: list[int]) -> dict[Sizes, int]:
    """The bytes of each run."""
    points = [*zip(of_lengths(context), by_length, strict=False), *zip(of_batches(context), by_batch, strict=False)]
    return {sizes: segments * SEGMENT for sizes, segments in points}


def of_lengths(context: int) -> tuple[Sizes, ...]:
    """The runs with a micro-batch of 1, the shortest first."""
    return tuple((1, length) for length in lengths(context))


def of_batches(context: int) -> tuple[Sizes, ...]:
    """The runs with larger micro-batches, the smallest first."""
    return tuple((batch, batch_length(context)) for batch in BATCHES)
