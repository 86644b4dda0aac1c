"""Compute the rows of the table by replaying every run that may fit a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.cards.settings import CARD_METHODS, LENGTHS, group_of, has_one_length, run_body
from calculator.cards.sizes import TriedSizes
from calculator.cards.table import SEGMENT
from calculator.comparison.methods import side_by_side
from calculator.devices import Verdict, gpus
from calculator.estimation.estimate import estimate, model_of
from calculator.estimation.positions import within_positions
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from calculator.limit_search.bounds import bound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.cards.settings import CardMethod
    from calculator.cards.sizes import Sizes
    from calculator.catalogue import ModelEntry
    from calculator.devices import GPU
    from calculator.estimation.request import Request


def groups() -> dict[str, tuple[GPU, ...]]:
    """Return the GPUs of each group, sorted by memory, largest first."""
    cards_by_name: dict[str, list[GPU]] = {}
    for card in sorted(gpus(), key=lambda gpu: -gpu.usable_bytes):
        cards_by_name.setdefault(group_of(card), []).append(card)
    return {name: tuple(cards) for name, cards in cards_by_name.items()}


def rows(entry: ModelEntry) -> Iterator[dict[str, Any]]:
    """Yield the rows of a model, one for each method."""
    for method in CARD_METHODS:
        yield {"model": entry.id, "method": method, **_row(entry, method)}


def _row(entry: ModelEntry, method: CardMethod) -> dict[str, Any]:
    cards, one_length = groups(), has_one_length(entry)
    first = None if one_length else LENGTHS[0]
    body = run_body(entry, method, {}, batch=1, length=first, gpu=next(iter(cards.values()))[0].id)
    request = parse_request({**body, "reserved": "rule"})
    result = side_by_side((request,))[0]
    if result.estimate is None and result.alternative is None:
        return {"refusal": "; ".join(problem.msg for problem in result.problems)}
    changes = result.alternative.changes if result.alternative else {}
    context = _context(request, one_length=one_length)
    tried = TriedSizes(context=context, one_length=one_length)
    builder = _Builder(entry, method, changes)
    reserved = [builder.group(card, tried) for card in cards.values()]
    row: dict[str, Any] = {"context": context, "reserved": reserved}
    return row | ({"changes": changes} if changes else {}) | ({"unfit": builder.unfit} if builder.unfit else {})


def _context(request: Request, *, one_length: bool) -> int:
    """Return the longest sequence of a model, or the one of its config."""
    model = model_of(request.model)
    if one_length:
        return within_positions(request, model).training.sequence_length
    return bound(request, model, "sequence_length").limit


class _Builder:
    """The replays of one model and method."""

    def __init__(self, entry: ModelEntry, method: CardMethod, changes: dict[str, Any]) -> None:
        self.entry, self.method, self.changes = entry, method, changes
        self.series = SeriesCache()
        self.unfit: dict[str, list[Sizes]] = {}

    def group(self, cards: tuple[GPU, ...], tried: TriedSizes) -> tuple[list[int], list[int]]:
        """Return the reserved memory of the runs on a group of GPUs, in segments.

        The shortest sequence has a figure even if it fits no GPU.
        """
        by_length = [*self._series(cards, tried.by_length)]
        least = by_length or [self._reserved(cards, tried.by_length[0])]
        return least, [*self._series(cards, tried.by_batch)]

    def _series(self, cards: tuple[GPU, ...], sizes: tuple[Sizes, ...]) -> Iterator[int]:
        """Yield the reserved memory of runs of growing size, until the live tensors exceed the largest GPU."""
        for size in sizes:
            if not self._has_room(cards[0], size):
                break
            yield self._reserved(cards, size)

    def _has_room(self, card: GPU, sizes: Sizes) -> bool:
        memory = estimate(parse_request({**self._body(card, sizes), "reserved": "rule"}), self.series).memory
        context = memory.required_bytes - memory.peak_reserved_bytes
        return memory.peak_allocated_bytes + memory.library_workspace_bytes + context <= card.usable_bytes

    def _reserved(self, cards: tuple[GPU, ...], sizes: Sizes) -> int:
        memory = estimate(parse_request(self._body(cards[0], sizes)), self.series).memory
        assert memory.replay is not None
        for card in cards:
            if memory.required_bytes <= card.usable_bytes:
                verdict = memory.replay.outcome(card.usable_bytes).verdict
                if verdict is not Verdict.FITS:
                    self.unfit.setdefault(card.id, []).append(sizes)
        segments, left = divmod(memory.peak_reserved_bytes, SEGMENT)
        assert left == 0
        return segments

    def _body(self, card: GPU, sizes: Sizes) -> dict[str, Any]:
        batch, length = sizes
        return run_body(self.entry, self.method, self.changes, batch=batch, length=length, gpu=card.id)
