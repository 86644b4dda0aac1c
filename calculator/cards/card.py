"""What one GPU can train: one row for every model and method, from the table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from calculator.cards.settings import group_of, run_body
from calculator.cards.table import table
from calculator.devices import cuda_context

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from calculator.cards.settings import CardMethod
    from calculator.cards.sizes import Sizes
    from calculator.cards.table import Runs
    from calculator.catalogue import ModelEntry
    from calculator.devices import GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class CardRow:
    """The runs of one model and method on a GPU."""

    model: str
    parameters: int
    method: CardMethod
    #: The settings that differ from those of the table, by path in a request.
    changes: Mapping[str, Any]
    #: Why the model can't be trained with the method. Empty if it can.
    refusal: str
    #: Whether any run of the table fits.
    fits: bool
    #: The required memory of the shortest sequence in the table. None if the model can't be trained with the method.
    required_bytes: int | None
    #: The longest sequence that fits with a micro-batch of 1. None if no sequence fits.
    sequence_length: int | None
    #: Whether it is the longest sequence in the table.
    is_longest_tried: bool
    #: The largest micro-batch that fits with `batch_sequence_length`. None if no micro-batch fits.
    micro_batch_size: int | None
    #: Whether it is the largest micro-batch in the table.
    is_largest_tried: bool
    batch_sequence_length: int | None
    #: The request of the longest sequence that fits, or of the shortest one if none fits. None if it is refused.
    request: Mapping[str, Any] | None
    #: The text that a search matches.
    searched: str


@lru_cache(maxsize=16)
def card_rows(card: GPU) -> tuple[CardRow, ...]:
    """Return every row of a GPU, in the order of the table."""
    group = group_of(card)
    return tuple(_row(runs, card, group) for runs in table())


def fitting(runs: Runs, card: GPU, group: str) -> set[Sizes]:
    """Return the sizes with which a model and method fit a GPU of a group."""
    room = card.usable_bytes - cuda_context(card).bytes
    reserved = runs.reserved.get(group, {})
    return {sizes for sizes, size in reserved.items() if size <= room} - runs.unfit.get(card.id, frozenset())


def _row(runs: Runs, card: GPU, group: str) -> CardRow:
    fits, entry = fitting(runs, card, group), runs.entry
    if runs.refusal:
        return _refused(runs)
    by_length, by_batch, batch_length = runs.tried.by_length, runs.tried.by_batch, runs.tried.batch_length
    length = _largest_fitting(by_length, fits)
    batch = _largest_fitting(((1, batch_length), *by_batch), fits)
    shown = length or by_length[0]
    return CardRow(
        model=entry.id,
        parameters=entry.parameters,
        method=runs.method,
        changes=runs.changes,
        refusal=runs.refusal,
        fits=bool(fits),
        required_bytes=runs.reserved[group][by_length[0]] + cuda_context(card).bytes,
        sequence_length=length[1] if length else None,
        is_longest_tried=length == by_length[-1],
        micro_batch_size=batch[0] if batch else None,
        is_largest_tried=batch == by_batch[-1],
        batch_sequence_length=batch_length,
        request=run_body(entry, runs.method, runs.changes, batch=shown[0], length=shown[1], gpu=card.id),
        searched=_searched(entry),
    )


def _refused(runs: Runs) -> CardRow:
    return CardRow(
        model=runs.entry.id,
        parameters=runs.entry.parameters,
        method=runs.method,
        changes={},
        refusal=runs.refusal,
        fits=False,
        required_bytes=None,
        sequence_length=None,
        is_longest_tried=False,
        micro_batch_size=None,
        is_largest_tried=False,
        batch_sequence_length=None,
        request=None,
        searched=_searched(runs.entry),
    )


def _searched(entry: ModelEntry) -> str:
    return " ".join((entry.id, *entry.aliases, entry.model_type)).lower()


def _largest_fitting(sizes: Iterable[Sizes], fitting: set[Sizes]) -> Sizes | None:
    """Return the largest sizes that fit. A larger run does not always require more memory."""
    return max((size for size in sizes if size in fitting), default=None)
