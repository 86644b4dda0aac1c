"""The events of a micro-batch without most of its transients: tensors that cannot change what is reserved.

What is reserved depends on where tensors are placed. A tensor's place depends only on the tensors that are alive when
it is allocated. Freed blocks are merged, so tensors that were allocated and freed before have no effect, as long as no
segment was added. So the placed tensors are those that outlive a pass, and those that are alive while a placed tensor
is allocated. The others, the transients, come in stretches between two allocations of placed tensors, and end in the
same stretch. If a stretch's transients are certain to fit into the blocks that are free at its start, the stretch is
not played, because it leaves everything unchanged. Otherwise its events are played one by one.

Small and large tensors never share a segment, nor do tensors of two streams. So each pool has its own events and
transients.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import partial
from itertools import repeat
from operator import floordiv, itemgetter
from typing import TYPE_CHECKING, Protocol

from calculator.allocator.adapter_updates import EVENTS
from calculator.allocator.chunks import SMALL, Moved, cut_of
from calculator.allocator.needs import ChunkNeeds, StretchNeeds
from calculator.allocator.recurring_states import Recurring
from calculator.allocator.repetitions import MIN_REPETITIONS, repetitions_of
from calculator.allocator.segments import BLOCK
from calculator.common.budget import check_budget
from calculator.training_step.periods import Window, after_product, shifted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from calculator.allocator.certain import Condition, Needs
    from calculator.allocator.chunks import Chunk, Cut, Repeated
    from calculator.allocator.flat_pool import Places
    from calculator.allocator.gap_rests import GapRests
    from calculator.allocator.repetitions import Repetitions
    from calculator.engine.tape import Allocation
    from calculator.training_step.unrolled import Unrolled

#: The minimum number of layers that are placed at once if each leaves one tensor, as checkpointed layers do. A state
#: recurs after as many layers as fill a block, and it takes about as long to find the period as to place 64 layers.
_MIN_CHECKPOINTED = 72
#: About how many parts a pass is divided into. Windows that are not repeated are no longer than one part.
PARTS = 16


class Pool(Protocol):
    """An object that plays the events of small or of large rows."""

    def play(self, events: Sequence[int], sizes: Sequence[int], places: Places) -> None:
        """Allocate row `n` for an event `n`, and free it for `~n`."""

    def serves(self, condition: Condition) -> bool:
        """Return whether requests are certain to be served from free blocks (see `certain`)."""

    def serves_all(self, sizes: Sequence[int]) -> bool:
        """Return whether requests are known to be served from free blocks if none is freed before the last."""

    def free_blocks(self) -> list[int] | None:
        """Return the free blocks, if these and the live tensors determine all further requests.

        Otherwise return None.
        """


class Item:
    """A repetition of a chunk, and the condition under which the rest of its stretch is served.

    `sufficient_size`, `most_lost` and `needs` are those of all gaps up to the end of the stretch.
    """

    __slots__ = (
        "_found",
        "_needs",
        "_number",
        "_placed",
        "chunk",
        "kept",
        "lowest",
        "most_lost",
        "shift",
        "sufficient_size",
        "whole",
    )

    def __init__(self, needs: StretchNeeds, number: int, chunk: Chunk, lowest: int, shift: int) -> None:
        self._needs = needs
        self._number = number
        #: The needs, once they are read.
        self._found: Needs | None = None
        self.sufficient_size, self.most_lost = needs.sufficient_size[number], needs.most_lost[number]
        self.chunk = chunk
        self.lowest = lowest
        self.shift = shift
        #: The events after the gap, which are those of the chunk or a part of them.
        self._placed: Sequence[int] = chunk.placed
        #: Events with the rows of this repetition, without and with the gap's transients. None until they are first
        #: played.
        self.kept: Sequence[int] | None = None
        self.whole: Sequence[int] | None = None

    def needs(self) -> Iterable[tuple[int, int, int]]:
        """Return the needs of these gaps."""
        if self._found is None:
            if self._needs.is_long(self._number):
                return self._read()
            self._found = self._needs.of(self._number)
        return self._found

    def _read(self) -> Iterator[tuple[int, int, int]]:
        """Yield the needs. Most often, the first one is not met, and the others are not computed."""
        yield self._needs.largest(self._number)
        self._found = self._needs.of(self._number)
        yield from self._found[1:]

    def gap_rests(self) -> GapRests | None:
        """Return the rests of the gap, if these are left out."""
        return self._needs.gap_rests(self._number, self.lowest)

    def updates(self) -> Sequence[int]:
        """Return where updates of adapters begin (see `adapter_updates`), counted from the end."""
        return self._needs.updates(self._number)

    def merges(self) -> bool:
        """Return whether tensors that were allocated before are freed up to the end of the stretch."""
        return bool(self.chunk.carried) or self._needs.merges(self._number)

    def place(self, placed: Sequence[int]) -> None:
        """Set the events after the gap to a part of those of the chunk."""
        self._placed, self.kept, self.whole = placed, None, None

    def events(self, events: Sequence[int]) -> Sequence[int]:
        """Return events of the chunk with the rows of this repetition."""
        return shifted(events, self.lowest, self.shift)

    def played(self, *, skips: bool) -> Sequence[int]:
        """Return all events to play, without the gap's transients if `skips` is true."""
        if skips:
            if self.kept is None:
                self.kept = self._with_placed(self.chunk.frees, skips=True)
            return self.kept
        if self.whole is None:
            self.whole = self._with_placed(self.chunk.gap, skips=False)
        return self.whole

    def played_late(self, late: Sequence[int], *, skips: bool) -> Sequence[int]:
        """Return all events to play, with `late` ones before the events after the gap."""
        return [*self.events(self.chunk.frees if skips else self.chunk.gap), *late, *self.events(self._placed)]

    def _with_placed(self, gap: Sequence[int], *, skips: bool) -> Sequence[int]:
        """Return the events of the gap and those after it, with the rows of this repetition.

        Most rows are the same in every repetition.
        """
        if not self.shift:
            return [*gap, *self._placed] if gap else self._placed
        known, key, lowest, by = self.chunk.moved, (skips, len(self._placed)), self.lowest, self.shift
        if key not in known:
            known[key] = Moved.of([*gap, *self._placed], lowest)
        events, allocated, freed = known[key]
        events = events.copy()
        for at in allocated:
            events[at] += by
        for at in freed:
            events[at] -= by
        return events


class MicroBatch:
    """A micro-batch's events for each pool, with the sizes of its rows in units of 512 bytes.

    `workspaces` are allocated in the first step, when each pass has allocated the result of its first matrix product.
    Their rows follow those of the micro-batch.
    """

    __slots__ = ("counts", "gradients", "left", "passes", "places", "sizes", "takes", "windows", "workspace_rows")

    def __init__(self, unrolled: Unrolled, workspaces: tuple[int, int] | None) -> None:
        one, period = unrolled.rows[: unrolled.base], unrolled.rows[unrolled.base : unrolled.base + unrolled.stride]
        self.sizes = _in_blocks(one)
        #: Whether it frees tensors of an earlier micro-batch.
        self.takes = unrolled.takes
        if len(unrolled.rows) > len(one):
            self.sizes += _in_blocks(period) * (3 + unrolled.copies)
        self.workspace_rows = range(len(self.sizes), len(self.sizes))
        windows = [_divided(unrolled.forward), _divided(unrolled.backward)]
        if workspaces is not None:
            self.workspace_rows = range(len(self.sizes), len(self.sizes) + 2)
            self.sizes += [workspace // BLOCK for workspace in workspaces]
            for n, row in enumerate(self.workspace_rows):
                _insert_workspace(windows[n], unrolled, row)
        self.places: Places = [0] * len(self.sizes), [0] * len(self.sizes)
        cut = self._cut(unrolled, windows)
        #: The windows of each pass; and for each pool, the number of chunks in each window.
        self.windows = windows
        self.counts = cut.counts
        #: For each pool, the rows that outlive the micro-batch: gradients, and what the loss keeps.
        self.gradients = cut.gradients
        self.left = cut.left
        #: For each pool, the items of the forward pass and of the backward pass.
        self.passes: list[list[list[Item]]] = []
        for pool, (allocations, passes) in enumerate(zip(cut.allocations, cut.passes, strict=True)):
            needs = ChunkNeeds(allocations, self.sizes, SMALL if pool % 2 else 0)
            self.passes.append([_items(repeated, StretchNeeds(repeated, needs)) for repeated in passes])

    def _cut(self, unrolled: Unrolled, windows: list[list[Window]]) -> Cut:
        """Return the chunks.

        They are cached for micro-batches of other sizes whose tensors are in the same pools.
        """
        start = self.workspace_rows.start
        once = [*self.sizes[: unrolled.base + unrolled.stride], *self.sizes[start:]]
        pools = {size: _pool_of(size) for size in {*once}}
        key = bool(self.workspace_rows), bytes(map(pools.__getitem__, once))
        if key not in unrolled.known:
            unrolled.known[key] = cut_of(unrolled, windows, self.sizes, start)
        cut: Cut = unrolled.known[key]
        return cut

    def repetitions(self, pool: int) -> Iterator[tuple[int, int, Repetitions]]:
        """Yield the repetitions of layers in the forward pass, each from the end of a stretch of transients on.

        Each comes with the index of its first item, and the number of items of one repetition. Repetitions for which
        that would save no time are left out.
        """
        items, at = self.passes[pool][0], 0
        for window, count in zip(self.windows[0], self.counts[pool][0], strict=True):
            first, at = at, at + count * len(window.shifts)
            times = len(window.shifts)
            if times < MIN_REPETITIONS or not any(window.shifts):
                continue
            if times < _MIN_CHECKPOINTED and _growth(items[first : first + count]) <= 1:
                continue
            starts = [first + n + 1 for n in range(count) if items[first + n].chunk.ends_stretch]
            for start in starts:
                found = self._repetitions(items[start : start + count], window)
                if found is not None:
                    yield start, count, found
                    break

    def _repetitions(self, items: Sequence[Item], window: Window) -> Repetitions | None:
        """Return the repetitions that begin with these items.

        Return None if one frees rows that neither it nor the previous one allocated.
        """
        events = [event for item in items for event in item.played(skips=False)]
        step = window.shifts[1] - window.shifts[0]
        return repetitions_of(events, self.sizes, len(window.shifts) - 1, step, window.lowest)

    def take(self, pairs: Sequence[tuple[int, int]], other: MicroBatch) -> None:
        """Assign the places of another micro-batch's rows to rows.

        `pairs` has an own row and a row of `other` each.
        """
        for places, of_other in zip(self.places, other.places, strict=True):
            for row, of_first in pairs:
                places[row] = of_other[of_first]

    def forget_workspaces(self) -> None:
        """Remove the allocation of workspaces from the passes. Only the first step allocates them."""
        start = self.workspace_rows.start
        for passes in self.passes:
            for items in passes:
                for item in items:
                    if item.chunk.placed and item.chunk.placed[0] >= start:
                        item.place(item.chunk.placed[1:])


def play(
    pool: Pool,
    items: Sequence[Item],
    sizes: Sequence[int],
    places: Places,
    *,
    stops: bool = False,
    until: int | None = None,
    recurs: Callable[[int], bool] | None = None,
    play_gap: Callable[[Item], bool] | None = None,
    play_updates: Callable[[Sequence[int], Sequence[int]], None] | None = None,
) -> bool:
    """Play a pass of a micro-batch. Transients are placed only if they are not certain to fit.

    With `stops`, the end of the pass is left out if all of its transients are certain to fit. Return whether it was
    left out. From item `until` on, all transients are placed. `recurs` returns whether those of a stretch are known
    to fit, from an item on. `play_gap` plays an item up to where the rest of its gap fits, or returns False.
    `play_updates` plays events with updates of adapters.
    """
    check_budget()
    last, until = len(items) - 1, len(items) if until is None else until
    while stops and last >= 0 and not items[last].chunk.ends_stretch:
        last -= 1
    skips, late, recurring = False, None, Recurring(pool, places)
    for n, item in enumerate(items):
        chunk = item.chunk
        if not skips:
            if chunk.recurs and recurring.is_as_before(chunk):
                continue
            if chunk.allocates and n < until and (pool.serves(item) or (recurs is not None and recurs(n))):
                if stops and n > last:
                    return True
                skips = True
                # Transients of the stretch that are already placed are freed when the stretch ends. That is later than
                # in the run, and so on the safe side.
                late = [~row for row in item.events(chunk.carried)] if chunk.carried else None
            elif chunk.allocates and play_gap is not None and play_gap(item):
                continue
        events = item.kept if skips else item.whole
        if events is None:
            events = item.played(skips=skips)
        if chunk.ends_stretch:
            if late:
                events = item.played_late(late, skips=skips)
            skips, late = False, None
        updates = item.updates() if play_updates is not None and len(chunk.placed) >= EVENTS else ()
        if play_updates is not None and updates:
            play_updates(events, updates)
        elif events:
            pool.play(events, sizes, places)
    if late:
        pool.play(late, sizes, places)
    return False


def _growth(items: Sequence[Item]) -> int:
    """Return by how many tensors more are alive after items than before."""
    return sum([1 if event >= 0 else -1 for item in items for event in (*item.chunk.gap, *item.chunk.placed)])


#: Returns 0 for a size of zero bytes, 1 for a size of the small pool, and 2 for one of the large pool.
_pool_of = partial(bisect_left, (0, SMALL))


def _in_blocks(rows: Sequence[Allocation]) -> list[int]:
    """Return the sizes of rows in units of 512 bytes."""
    return [*map(floordiv, map(itemgetter(4), rows), repeat(BLOCK))]


def _items(repeated: Repeated, needs: StretchNeeds) -> list[Item]:
    """Return the repetitions of chunks."""
    return [Item(needs, n, chunk, lowest, shift) for n, (chunk, lowest, shift) in enumerate(repeated)]


def _divided(windows: Sequence[Window]) -> list[Window]:
    """Return the windows of a pass. Windows that are not repeated are divided into parts."""
    most = -(-sum(len(window.events) * len(window.shifts) for window in windows) // PARTS)
    divided: list[Window] = []
    for window in windows:
        events = window.events
        pieces = -(-len(events) // most) if most and len(window.shifts) == 1 else 1
        size = -(-len(events) // pieces) if pieces else 0
        divided += [
            Window(events[n * size : (n + 1) * size], window.lowest, window.shifts) if pieces > 1 else window
            for n in range(max(1, pieces))
        ]
    return divided


def _insert_workspace(windows: list[Window], unrolled: Unrolled, row: int) -> None:
    """Add the allocation of a workspace to a pass, where the pass first multiplies matrices."""
    places = [after_product(window.events, unrolled.rows, unrolled.products) for window in windows]
    n = next((n for n, place in enumerate(places) if place is not None), 0)
    window, place = windows[n], places[n] or 0
    assert not any(window.shifts[1:]), "a layer with rows of its own is not repeated if it has the first product"
    first, others = window.shifts[:1], window.shifts[1:]
    parts = [Window(window.events[:place], window.lowest, first), Window([row], 0, (0,))]
    parts += [Window(window.events[place:], window.lowest, first), Window(window.events, window.lowest, others)]
    windows[n : n + 1] = [part for part in parts if part.events and part.shifts]
