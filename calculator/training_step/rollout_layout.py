"""The storages of a pass of `generate`, whose bytes are computed for any sizes of its rows."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import chain, pairwise
from operator import invert, itemgetter, mul, neg
from typing import TYPE_CHECKING, NamedTuple

from calculator.common.deferred import Deferred
from calculator.engine.memory_curve import peak_after
from calculator.training_step.step_pass import StepPass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from calculator.engine.memory_curve import Window
    from calculator.training_step.generation import PassPeak
    from calculator.training_step.rollout import RolloutPass


class CopiedLayers(NamedTuple):
    """The changes that each copy of the repeated layers makes.

    Attributes:
        window: The events that they repeat. None without copies.
        growth: The storages that it adds or frees, by size.
        lost: The rows that it frees and other code allocated.
        is_simple: Whether nothing that copies add is freed after them. If something is, the pass is recorded as a
            whole.
    """

    window: Window | None
    growth: Mapping[int, int]
    lost: Sequence[int]
    is_simple: bool

    @classmethod
    def from_pass(cls, ran: RolloutPass, names: Sequence[str], sizes: Sequence[int]) -> CopiedLayers:
        """Read the events of a pass. `names` and `sizes` are those of its rows."""
        if not ran.interpretation.no_grad:
            return cls(None, {}, (), is_simple=True)
        (window,), lifetimes = ran.interpretation.no_grad, ran.interpretation.lifetimes
        gained = lifetimes.surviving(window.start, window.end)
        lost = lifetimes.freed_earlier_rows(0, window.start, window.end)
        growth: dict[int, int] = {}
        added: dict[tuple[str, int], int] = {}
        for rows, count in ((gained, 1), (lost, -1)):
            for row in rows:
                size = sizes[row]
                key = names[row], size
                added[key] = added.get(key, 0) + count
                growth[size] = growth.get(size, 0) + count
        freed = {names[row] for row in lifetimes.freed(gained, window.end, lifetimes.end)}
        is_simple = not any(count for (name, _), count in added.items() if name in freed)
        return cls(window, growth, lost, is_simple=is_simple)

    def bytes(self, values: Sequence[int] | None) -> int:
        """Return the bytes that each copy adds."""
        return sum([(size if values is None else values[size]) * count for size, count in self.growth.items()])

    @property
    def added_storages(self) -> list[tuple[int, int]]:
        """The storages that all copies together add, by size."""
        copies = 0 if self.window is None else self.window.copies
        return [(size, copies * count) for size, count in self.growth.items() if count > 0]

    def without(self, lost: Iterable[int]) -> CopiedLayers:
        """Return the changes without frees of storages of some sizes."""
        growth = {**self.growth}
        for size in lost:
            growth[size] += 1
        return self._replace(growth=growth)


class RolloutLayout:
    """The events of a pass and the sizes of its rows, from which its live bytes follow for any sizes.

    A size is in bytes, or the index of a value in bytes.
    """

    __slots__ = (
        "_copied",
        "_events",
        "_indices",
        "_most_blocks",
        "_names",
        "_runs",
        "ran",
        "sizes",
    )

    def __init__(
        self,
        ran: RolloutPass,
        names: Sequence[str],
        sizes: Sequence[int],
        events: Sequence[int],
        copied: CopiedLayers,
    ) -> None:
        """Store the names and sizes of a pass's rows, its events, and what copies of layers change."""
        self.ran = ran
        self.sizes = sizes
        self._names = names
        self._events = events
        self._copied = copied
        #: An upper bound on the number of live storages of each size. None until it is read.
        self._most_blocks: Counter[int] | None = None
        #: For each event, the index of its size in bytes, inverted if it frees.
        self._indices: list[int] | None = None
        #: The number of runs whose bytes have been computed. Blocks are counted for the second one.
        self._runs = 0

    @classmethod
    def from_pass(cls, ran: RolloutPass, names: Sequence[str], sizes: Sequence[int]) -> RolloutLayout:
        """Return the layout of a pass. `names` and `sizes` are those of its rows."""
        return cls(ran, names, sizes, ran.interpretation.tape.events, CopiedLayers.from_pass(ran, names, sizes))

    def prompts_layout(self, none: int) -> RolloutLayout:
        """Return the layout of the pass of the prompts, which has no tensors of earlier passes.

        Its ids are freed before the next token is chosen. `none` is the index of a size of no bytes.
        """
        ran, sizes, events = self.ran, [*self.sizes], self._events
        without = ran.earlier, ran.inputs[1:]
        for rows in without:
            sizes[rows.start : rows.stop] = [none] * len(rows)
        freed = ~ran.inputs.start
        after = [event for event in events[ran.choice :] if event != freed]
        lost = [self.sizes[row] for row in self._copied.lost if any(row in rows for rows in without)]
        copied = self._copied.without(lost)
        return RolloutLayout(ran, self._names, sizes, [*events[: ran.choice], freed, *after], copied)

    def sized(self, values: Sequence[int] | None, measured: Callable[[], PassPeak]) -> StepPass:
        """Return the pass with sizes of these values; `measured` records all of it."""
        if not self._copied.is_simple:
            return StepPass.from_peak(measured())
        copied, start, changes = self._copied, self.ran.start, self._changes(values)
        moment = peak_after(start, sum(changes[:start]), changes[start:], copied.window, copied.bytes(values))
        self._runs += 1
        last = self._events[moment.event - 1]
        return StepPass(
            moment,
            self._names[last if last >= 0 else ~last],
            Deferred(measured),
            Deferred(partial(self._bound, values)),
            partial(self._bytes_of_bound, values),
        )

    def _changes(self, values: Sequence[int] | None) -> list[int]:
        """Return the bytes that each event adds, with sizes of these values."""
        if values is None:
            return _event_values(self.sizes, neg, self._events)
        if self._indices is None:
            self._indices = _event_values(self.sizes, invert, self._events)
        return _event_values(values, neg, self._indices)

    def _bytes_of_bound(self, values: Sequence[int] | None, limit: int | None) -> tuple[int, int]:
        """Return the number of sizes and the bytes of the bound (see `StepPass`), which are higher without a limit."""
        if limit is None and self._runs == 1:
            sizes = self.sizes if values is None else map(values.__getitem__, self.sizes)
            added = sum(
                [(size if values is None else values[size]) * count for size, count in self._copied.added_storages]
            )
            return len(self.sizes if values is None else values), sum(sizes) + added
        counts = self._blocks.values()
        block_bytes = [*self._blocks] if values is None else [*map(values.__getitem__, self._blocks)]
        if limit is None:
            return len(block_bytes), sum(map(mul, block_bytes, counts))
        smaller = [size * count for size, count in zip(block_bytes, counts, strict=True) if size < limit]
        return len(smaller), sum(smaller)

    def _bound(self, values: Sequence[int] | None) -> dict[int, int]:
        blocks: dict[int, int] = {}
        for size, count in self._blocks.items():
            bound_size = size if values is None else values[size]
            blocks[bound_size] = blocks.get(bound_size, 0) + count
        blocks.pop(0, None)
        return blocks

    @property
    def _blocks(self) -> Counter[int]:
        """An upper bound on the number of live storages of each size.

        It counts all storages that the pass allocates. Storages that a layer allocates and frees count for one layer
        only. Storages that the copies of layers add are added.
        """
        if self._most_blocks is None:
            self._most_blocks = self._counted_blocks()
        return self._most_blocks

    def _counted_blocks(self) -> Counter[int]:
        blocks = Counter(self.sizes)
        if len(self.ran.interpretation.repetition.numbers) > 1:
            layer_counts = [Counter(map(self.sizes.__getitem__, rows)) for rows in self._freed_by_layers()]
            for freed in layer_counts:
                blocks.subtract(freed)
            blocks.update({size: max(freed[size] for freed in layer_counts) for size in {*chain(*layer_counts)}})
        for size, count in self._copied.added_storages:
            blocks[size] += count
        return blocks

    def _freed_by_layers(self) -> Iterator[list[int]]:
        """Yield the rows that each layer both allocates and frees."""
        lifetimes = self.ran.interpretation.lifetimes
        marks = [position for position, _ in self.ran.interpretation.tape.marks]
        for start, end in pairwise(marks):
            yield lifetimes.freed(lifetimes.allocated(start, end), start, end)


def _event_values(values: Sequence[int], freed: Callable[[int], int], events: Sequence[int]) -> list[int]:
    """Return the value of each event's index, and `freed` of the value of an inverted index."""
    signed_values = [*values, *map(freed, reversed(values))]
    return [*itemgetter(*events)(signed_values)]
