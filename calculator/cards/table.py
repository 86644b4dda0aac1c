"""The table of the memory that each run of the catalogue reserves on each group of GPUs (`catalogue/cards.json`).

`python -m validation cards` recomputes it. Sizes are multiples of a segment of the caching allocator.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from calculator import catalogue
from calculator.allocator.segments import SMALL_SEGMENT
from calculator.cards.settings import has_one_length
from calculator.cards.sizes import TriedSizes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.cards.settings import CardMethod
    from calculator.cards.sizes import Sizes
    from calculator.catalogue import ModelEntry

FILE = "cards.json"

#: The unit of the table's sizes in bytes. Every segment is a multiple of it.
SEGMENT = SMALL_SEGMENT


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
    tried: TriedSizes
    reserved: Mapping[str, Mapping[Sizes, int]]
    #: The runs whose reserved memory fits a GPU but that fail in a replay on it, by GPU.
    unfit: Mapping[str, frozenset[Sizes]]


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
    entry = catalogue.model(row["model"])
    tried = TriedSizes(context=row.get("context", 0), one_length=has_one_length(entry))
    return Runs(
        entry=entry,
        method=row["method"],
        changes=row.get("changes", {}),
        refusal=row.get("refusal", ""),
        tried=tried,
        reserved={group: _sizes(tried, *runs) for group, runs in zip(groups, row.get("reserved", ()), strict=False)},
        unfit={card: frozenset(map(tuple, sizes)) for card, sizes in row.get("unfit", {}).items()},
    )


def _sizes(tried: TriedSizes, by_length: list[int], by_batch: list[int]) -> dict[Sizes, int]:
    """Return the reserved bytes of each run."""
    points = [*zip(tried.by_length, by_length, strict=False), *zip(tried.by_batch, by_batch, strict=False)]
    return {sizes: segments * SEGMENT for sizes, segments in points}
