"""The table of the memory that each run of the catalogue reserves on each group of GPUs (`catalogue/cards.json`).

`python -m validation cards` recomputes it. Sizes are multiples of a segment of the caching allocator.
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

#: The unit of the table's sizes in bytes. Every segment is a multiple of it.
SEGMENT = SMALL_SEGMENT

#: The micro-batch size and the sequence length of a run.
Sizes = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """The runs of one model and method: the bytes that each reserves, by group of GPUs and by sizes.

    The sizes of a group end at the first run whose live tensors exceed the memory of every GPU of the group.
    """

    entry: ModelEntry
    method: CardMethod
    #: The settings that differ from those of the table, by path in a request.
    changes: Mapping[str, Any]
    #: Why the model can't be trained with the method. Empty if it can.
    refusal: str
    #: The longest sequence that the model's context, or the request's field, allows.
    context: int
    reserved: Mapping[str, Mapping[Sizes, int]]
    #: The runs whose reserved memory fits a GPU but that fail in a replay on it, by GPU.
    unfit: Mapping[str, frozenset[Sizes]]

    @property
    def batch_length(self) -> int:
        """The sequence length of the runs with several micro-batch sizes."""
        return batch_length(self.context)


def lengths(context: int) -> tuple[int, ...]:
    """Return the sequence lengths of the table that a context allows."""
    return tuple(length for length in LENGTHS if length <= context)


def batch_length(context: int) -> int:
    """Return the sequence length of the runs with several micro-batch sizes."""
    return max(length for length in lengths(context) if length <= BATCH_LENGTH)


@cache
def table() -> tuple[Runs, ...]:
    """Return every model and method, in the order of the catalogue."""
    file = catalogue.read(FILE)
    return tuple(_runs(row, file["groups"]) for row in file["rows"])


@cache
def missing() -> tuple[str, ...]:
    """Return the models of the catalogue that the table lacks.

    They were added after the table was computed, or can only be traced.
    """
    in_table = {runs.entry.id for runs in table()}
    return tuple(entry.id for entry in catalogue.models() if entry.id not in in_table)


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
    """Return the reserved bytes of each run."""
    points = [
        *zip(sizes_by_length(context), by_length, strict=False),
        *zip(sizes_by_batch(context), by_batch, strict=False),
    ]
    return {sizes: segments * SEGMENT for sizes, segments in points}


def sizes_by_length(context: int) -> tuple[Sizes, ...]:
    """Return the sizes with a micro-batch of 1, the shortest first."""
    return tuple((1, length) for length in lengths(context))


def sizes_by_batch(context: int) -> tuple[Sizes, ...]:
    """Return the sizes with larger micro-batches, the smallest first."""
    return tuple((batch, batch_length(context)) for batch in BATCHES)
