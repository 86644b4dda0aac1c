"""The events of a micro-batch without most of its transients: tensors that cannot change what is reserved.

What is reserved depends on where tensors are placed. A tensor's place depends on those that are alive when it is
allocated, and on no others: freed blocks are merged, so that what was allocated and freed before leaves no trace, as
long as no segment was added. So the placed tensors are those that outlive a pass, and every one that is alive while a
placed one is allocated. The others, the transients, come in stretches between two allocations of placed tensors, and
end in the same stretch. Where it is certain that a stretch's transients fit into what is free at its start, it needs
no placing: it leaves everything as it was. Otherwise its events are played one by one.

Small and large tensors never share a segment, and those of two streams do not, so that each pool has events and
transients of its own.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import partial
from itertools import accumulate, repeat
from operator import add, floordiv, itemgetter, mul, neg, sub
from typing import TYPE_CHECKING, Protocol

from calculator.allocator.chunks import SMALL, cut_of
from calculator.allocator.known_states import Recurring
from calculator.allocator.repetitions import MIN_REPETITIONS, repetitions_of
from calculator.allocator.segments import BLOCK
from calculator.common.budget import check_budget
from calculator.training_step.unrolled import Window, first_product, shifted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from calculator.allocator.chunks import Chunk, Cut, Repeated
    from calculator.allocator.flat_pool import Needs, Places
    from calculator.allocator.repetitions import Repetitions
    from calculator.engine.tape import Allocation
    from calculator.training_step.unrolled import Unrolled

#: The parts that a pass can be divided into, about: windows that come once are no longer than one.
PARTS = 16


class Pool(Protocol):
    """What plays the events of small or of large rows."""

    def play(self, events: Sequence[int], sizes: Sequence[int], places: Places) -> None:
        """Allocate row `n` for an event `n`, and free it for `~n`."""

    def serves(self, quick: int, needs: Needs) -> bool:
        """Whether requests are served from free blocks for certain (see `FlatPool.serves`)."""

    def serves_all(self, sizes: Sequence[int]) -> bool:
        """Whether it is known that requests are served from free blocks if none is freed before the last."""

    def free_blocks(self) -> list[int] | None:
        """The free blocks, if these and the tensors that are alive decide all further requests."""


class Item:
    """A repetition of a chunk; `quick` and `needs` are those of all gaps up to the end of its stretch."""

    __slots__ = ("_kept", "_placed", "_whole", "chunk", "lowest", "needs", "quick", "shift")

    def __init__(self, need: Need, chunk: Chunk, lowest: int, shift: int) -> None:
        self.quick = need.quick
        self.needs = need.needs
        self.chunk = chunk
        self.lowest = lowest
        self.shift = shift
        self.place(chunk.placed)

    def place(self, placed: Sequence[int]) -> None:
        """Set the events behind the gap: the chunk's, or some of them."""
        self._placed = placed
        #: Events with the rows of this repetition, without and with the gap's transients, once they were played.
        self._kept: Sequence[int] | None = None
        self._whole: Sequence[int] | None = None

    def events(self, events: Sequence[int]) -> Sequence[int]:
        """Events of the chunk with the rows of this repetition."""
        return shifted(events, self.lowest, self.shift)

    def played(self, late: Sequence[int] | None, *, skips: bool) -> Sequence[int]:
        """All events that are played, without the gap's transients if it `skips` them.

        `late` are played before the events behind the gap.
        """
        chunk = self.chunk
        if late:
            return [*self.events(chunk.frees if skips else chunk.gap), *late, *self.events(self._placed)]
        if skips:
            if self._kept is None:
                self._kept = self._with_placed(chunk.frees, skips=True)
            return self._kept
        if self._whole is None:
            self._whole = self._with_placed(chunk.gap, skips=False)
        return self._whole

    def _with_placed(self, gap: Sequence[int], *, skips: bool) -> Sequence[int]:
        """Events of the gap, and those behind it, with the rows of this repetition. Most rows are those of each."""
        events = [*gap, *self._placed] if gap else self._placed
        if not self.shift:
            return events
        known, key, lowest, by = self.chunk.moved, (skips, len(self._placed)), self.lowest, self.shift
        if key not in known:
            known[key] = [at for at, event in enumerate(events) if event >= lowest or ~event >= lowest]
        own = [*events]
        for at in known[key]:
            own[at] += by if own[at] >= 0 else -by
        return own


class Need:
    """What some requests need so that they are served from free blocks for certain (see `FlatPool.serves`)."""

    __slots__ = ("needs", "quick", "sizes")

    def __init__(self, quick: int, sizes: dict[int, int]) -> None:
        self.quick = quick
        #: For each size, the most that is lost. One that is smaller and loses less than a larger one is left out.
        self.sizes = {}
        most = -1
        for size in sorted(sizes, reverse=True):
            if sizes[size] > most:
                most = self.sizes[size] = sizes[size]
        self.needs = tuple(self.sizes.items())

    @classmethod
    def of_sizes(cls, sizes: Sequence[int]) -> Need:
        """The need of requests of which none is freed before the last."""
        total, quick, lost = 0, 0, dict[int, int]()
        for count, size in enumerate(sizes):
            quick = max(quick, total + (count + 1) * size)
            lost[size] = max(total + count * (size - 1), lost.get(size, 0))
            total += size + SMALL
        return cls(quick, lost)

    def together(self, other: Need) -> Need:
        """The need of both, one after the other."""
        sizes = {size: max(self.sizes.get(size, 0), other.sizes.get(size, 0)) for size in self.sizes | other.sizes}
        both = Need(max(self.quick, other.quick), sizes)
        return other if (both.quick, both.needs) == (other.quick, other.needs) else both


_NOTHING = Need(0, {})


class MicroBatch:
    """A micro-batch's events for each pool, with its rows' sizes in units of 512 bytes.

    `workspaces` are allocated in the first step where each pass first multiplies matrices; their rows follow the
    micro-batch's. `kept` are rows that outlive it: gradients, and what the loss keeps.
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
        #: The windows of each pass; and for each pool, how many chunks each of them has.
        self.windows = windows
        self.counts = cut.counts
        #: For each pool, the rows that outlive it: gradients, and what the loss keeps.
        self.gradients = cut.gradients
        self.left = cut.left
        #: For each pool, the items of the forward and of the backward pass.
        self.passes: list[list[list[Item]]] = []
        for pool, (chunks, passes) in enumerate(zip(cut.chunks, cut.passes, strict=True)):
            needs = _needs(chunks, self.sizes, SMALL if pool % 2 else 0)
            self.passes.append([_items(repeated, needs) for repeated in passes])

    def _cut(self, unrolled: Unrolled, windows: list[list[Window]]) -> Cut:
        """The chunks, which are known from sizes before these if all tensors were in the same pools."""
        start = self.workspace_rows.start
        once = [*self.sizes[: unrolled.base + unrolled.stride], *self.sizes[start:]]
        key = bool(self.workspace_rows), bytes(map(_pool_of, once))
        if key not in unrolled.known:
            unrolled.known[key] = cut_of(unrolled, windows, self.sizes, start)
        cut: Cut = unrolled.known[key]
        return cut

    def repetitions(self, pool: int) -> Iterator[tuple[int, int, Repetitions]]:
        """The repetitions of layers in the forward pass that begin and end with stretches of transients.

        Each with the place of its first item, and the number of items of one.
        """
        items, at = self.passes[pool][0], 0
        for window, count in zip(self.windows[0], self.counts[pool][0], strict=True):
            start, at = at, at + count * len(window.shifts)
            ends = [n for n in range(count) if items[start + n].chunk.ends_stretch]
            if len(window.shifts) >= MIN_REPETITIONS and any(window.shifts) and ends:
                start += ends[0] + 1
                found = self._repetitions(items[start : start + count], window)
                if found is not None:
                    yield start, count, found

    def _repetitions(self, items: Sequence[Item], window: Window) -> Repetitions | None:
        """The repetitions that begin with these items, if each frees only its own rows and those of the one before."""
        events = (event for item in items for event in item.played(None, skips=False))
        step = window.shifts[1] - window.shifts[0]
        return repetitions_of(events, self.sizes, len(window.shifts) - 1, step, window.lowest)

    def take(self, pairs: Sequence[tuple[int, int]], other: MicroBatch) -> None:
        """Let rows be where rows of another micro-batch are: pairs of an own one and the other's."""
        for own, of_other in zip(self.places, other.places, strict=True):
            for row, of_first in pairs:
                own[row] = of_other[of_first]

    def forget_workspaces(self) -> None:
        """Leave the allocation of workspaces out of the passes: only the first step makes them."""
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
    known: Callable[[int], bool] | None = None,
) -> bool:
    """Play a pass of a micro-batch, placing transients only where it is not certain that they fit.

    With `stops`, what is certain up to the end of the pass is left out altogether; the result is whether any was. From
    item `until` on, all are placed. `known` tells whether it is certain that those of a stretch fit, from an item on.
    """
    check_budget()
    last, until = len(items) - 1, len(items) if until is None else until
    while stops and last >= 0 and not items[last].chunk.ends_stretch:
        last -= 1
    skips, late, recurring = False, None, Recurring(pool, places)
    for n, item in enumerate(items):
        chunk = item.chunk
        if chunk.recurs and not skips and recurring.is_as_before(chunk):
            continue
        if (
            chunk.allocates
            and not skips
            and n < until
            and (pool.serves(item.quick, item.needs) or (known is not None and known(n)))
        ):
            if stops and n > last:
                return True
            skips = True
            # Those of the stretch that are placed already go when it ends: that is later than they do, and safe.
            late = [~row for row in item.events(chunk.carried)] if chunk.carried else None
        if chunk.ends_stretch:
            events = item.played(late, skips=skips)
            skips, late = False, None
        else:
            events = item.played(None, skips=skips)
        if events:
            pool.play(events, sizes, places)
    if late:
        pool.play(late, sizes, places)
    return False


#: 0 for a size of no bytes, 1 for one of the small pool, 2 for one of the large pool.
_pool_of = partial(bisect_left, (0, SMALL))


def _in_blocks(rows: Sequence[Allocation]) -> list[int]:
    """The sizes of rows in units of 512 bytes."""
    return [*map(floordiv, map(itemgetter(4), rows), repeat(BLOCK))]


def _needs(chunks: Sequence[Chunk], sizes: Sequence[int], waste: int) -> dict[Chunk, Need]:
    """What the transients of each chunk need. All that are alive at a time count, each with the most that it wastes."""
    needs: dict[Chunk, Need] = {}
    whole = [*map(waste.__add__, sizes)] if waste else sizes
    # The events of a row, `n` and `~n`, are indices of what they add.
    added = [*whole, *map(neg, reversed(whole))]
    total = count = 0
    for chunk in chunks:
        allocated = chunk.allocations(count)
        totals = [*accumulate(map(added.__getitem__, chunk.transients), initial=total)]
        own = [*map(sizes.__getitem__, allocated.rows)]
        before = [*map(totals.__getitem__, allocated.positions)]
        margins = map(mul, allocated.counts, own)
        most, lost = [*map(add, before, margins)], dict[int, int]()
        quick = max(map(add, most, own), default=0)
        for size, wasted in zip(own, map(sub, most, allocated.counts), strict=True):
            if wasted > lost.get(size, -1):
                lost[size] = wasted
        total, count = totals[-1], allocated.left
        needs[chunk] = Need(quick, lost)
    return needs


def _items(chunks: Repeated, needs: dict[Chunk, Need]) -> list[Item]:
    """Repetitions of chunks, each with what its stretch needs from there on."""
    items, ahead = [], _NOTHING
    together: dict[tuple[int, int], Need] = {}
    for chunk, lowest, shift in reversed(chunks):
        need = needs[chunk]
        if not chunk.ends_stretch:
            key = (id(chunk), id(ahead))
            if key not in together:
                together[key] = need.together(ahead)
            need = together[key]
        items.append(Item(need, chunk, lowest, shift))
        ahead = need
    items.reverse()
    return items


def _divided(windows: Sequence[Window]) -> list[Window]:
    """Windows of a pass; those that come once are no longer than a part of it."""
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
    """Add the allocation of a workspace to a pass, where it first multiplies matrices."""
    places = [first_product(window.events, unrolled.rows) for window in windows]
    n = next((n for n, place in enumerate(places) if place is not None), 0)
    window, place = windows[n], places[n] or 0
    assert len(window.shifts) == 1, "the first layer is not one that is repeated"
    before, behind = window.events[:place], window.events[place:]
    parts = [Window(before, window.lowest, window.shifts), Window([row], 0, (0,))]
    windows[n : n + 1] = [*parts, Window(behind, window.lowest, window.shifts)]
