"""The events of a micro-batch without most of its transients: tensors that cannot change what is reserved.

What is reserved depends on where tensors are placed. A tensor's place depends on those that are alive when it is
allocated, and on no others: freed blocks are merged, so that what was allocated and freed before leaves no trace, as
long as no segment was added. So the placed tensors are those that outlive a pass, and every one that is alive while a
placed one is allocated. The others, the transients, come in stretches between two allocations of placed tensors, and
end in the same stretch. Where it is certain that a stretch's transients fit into what is free at its start, it needs
no placing: it leaves everything as it was. Otherwise its events are played one by one.

Small and large tensors never share a segment, so that each pool has events and transients of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.allocator.segments import BLOCK, SMALL_REQUEST
from calculator.training_step.unrolled import Window, first_product, shifted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.allocator.flat_pool import FlatPool, Places
    from calculator.training_step.unrolled import Unrolled

#: The largest size in the small pool, in units of 512 bytes.
SMALL = SMALL_REQUEST // BLOCK
_NEVER = 1 << 60


class Chunk:
    """Events of a window: a gap up to the next allocation of a placed tensor, then those up to the next gap.

    Attributes:
        quick, needs: What the transients of the gap need of the free blocks (see `FlatPool.serves`).
        gap: Its events, of transients and frees of placed tensors.
        frees: The frees of placed tensors among them.
        placed: The events after the gap, all of placed tensors.
        ends_stretch: Whether one of them is an allocation.
        carried: Transients that are alive at its start.
    """

    __slots__ = ("carried", "ends_stretch", "frees", "gap", "needs", "placed", "quick")

    def __init__(self, carried: list[int]) -> None:
        self.quick = 0
        self.needs: dict[int, int] = {}
        self.gap: list[int] = []
        self.frees: list[int] = []
        self.placed: list[int] = []
        self.ends_stretch = False
        self.carried = carried


class Item:
    """A repetition of a chunk; `quick` and `needs` are those of all gaps up to the end of its stretch."""

    __slots__ = ("chunk", "lowest", "needs", "placed", "quick", "shift")

    def __init__(self, need: _Need, chunk: Chunk, lowest: int, shift: int) -> None:
        self.quick = need.quick
        self.needs = need.needs
        self.chunk = chunk
        self.lowest = lowest
        self.shift = shift
        #: The chunk's placed events with the rows of this repetition, once they were played.
        self.placed: Sequence[int] | None = None

    def events(self, events: Sequence[int]) -> Sequence[int]:
        """Events of the chunk with the rows of this repetition."""
        return shifted(events, self.lowest, self.shift)


class _Need:
    """What the transients of some gaps need."""

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

    def together(self, other: _Need) -> _Need:
        sizes = {size: max(self.sizes.get(size, 0), other.sizes.get(size, 0)) for size in self.sizes | other.sizes}
        both = _Need(max(self.quick, other.quick), sizes)
        return other if (both.quick, both.needs) == (other.quick, other.needs) else both


_NOTHING = _Need(0, {})


class MicroBatch:
    """A micro-batch's events for two pools, with its rows' sizes in units of 512 bytes.

    `workspaces` are allocated in the first step where each pass first multiplies matrices; their rows follow the
    micro-batch's. `kept` are rows that outlive it: gradients, and what the loss keeps.
    """

    __slots__ = ("gradients", "left", "passes", "places", "sizes", "workspace_rows")

    def __init__(self, unrolled: Unrolled, workspaces: tuple[int, int] | None) -> None:
        one, period = unrolled.rows[: unrolled.base], unrolled.rows[unrolled.base : unrolled.base + unrolled.stride]
        self.sizes = [row[4] // BLOCK for row in one]
        if len(unrolled.rows) > len(one):
            self.sizes += [row[4] // BLOCK for row in period] * (3 + unrolled.copies)
        self.workspace_rows = range(len(self.sizes), len(self.sizes))
        windows = [list(unrolled.forward), list(unrolled.backward)]
        if workspaces is not None:
            self.workspace_rows = range(len(self.sizes), len(self.sizes) + 2)
            self.sizes += [workspace // BLOCK for workspace in workspaces]
            for n, row in enumerate(self.workspace_rows):
                _insert_workspace(windows[n], unrolled, row)
        self.places: Places = [0] * len(self.sizes), [0] * len(self.sizes)
        short = _Short(unrolled, windows, self.sizes, self.workspace_rows.start)
        #: For the small and the large pool, the rows that outlive it: gradients, and what the loss keeps.
        self.gradients = _by_pool(short.outliving(gradients=True), self.sizes)
        self.left = _by_pool(short.outliving(gradients=False), self.sizes)
        #: For the small and the large pool, the items of the forward and of the backward pass.
        self.passes = [[_items(chunks) for chunks in short.chunks(large=large)] for large in (False, True)]

    def forget_workspaces(self) -> None:
        """Leave the allocation of workspaces out of the passes: only the first step makes them."""
        start = self.workspace_rows.start
        for passes in self.passes:
            for items in passes:
                for item in items:
                    if item.chunk.placed and item.chunk.placed[0] >= start:
                        item.chunk.placed, item.placed = item.chunk.placed[1:], None


def _by_pool(rows: Sequence[int], sizes: Sequence[int]) -> tuple[list[int], list[int]]:
    small = [row for row in rows if sizes[row] <= SMALL]
    return small, [row for row in rows if sizes[row] > SMALL]


def play(pool: FlatPool, items: Sequence[Item], batch: MicroBatch, *, stops: bool = False) -> bool:
    """Play a pass of a micro-batch, placing transients only where it is not certain that they fit.

    With `stops`, what is certain up to the end of the pass is left out altogether; the result is whether any was.
    """
    sizes, places = batch.sizes, batch.places
    last = len(items) - 1
    while last >= 0 and not items[last].chunk.ends_stretch:
        last -= 1
    skips, late = False, None
    for n, item in enumerate(items):
        chunk = item.chunk
        if chunk.gap:
            if not skips and chunk.quick and pool.serves(item.quick, item.needs):
                if stops and n > last:
                    return True
                skips = True
                # Those of the stretch that are placed already go when it ends: that is later than they do, and safe.
                late = [~row for row in item.events(chunk.carried)]
            gap = chunk.frees if skips else chunk.gap
            if gap:
                pool.play(item.events(gap), sizes, places)
        if chunk.ends_stretch:
            if late:
                pool.play(late, sizes, places)
            skips, late = False, None
        if chunk.placed:
            if item.placed is None:
                item.placed = item.events(chunk.placed)
            pool.play(item.placed, sizes, places)
    if late:
        pool.play(late, sizes, places)
    return False


def _items(chunks: Sequence[tuple[Chunk, int, int]]) -> list[Item]:
    """Repetitions of chunks, each with what its stretch needs from there on."""
    items, ahead = [], _NOTHING
    own: dict[int, _Need] = {}
    together: dict[tuple[int, int], _Need] = {}
    for chunk, lowest, shift in reversed(chunks):
        need = own.get(id(chunk))
        if need is None:
            need = own[id(chunk)] = _Need(chunk.quick, chunk.needs)
        if not chunk.ends_stretch:
            key = (id(chunk), id(ahead))
            if key not in together:
                together[key] = need.together(ahead)
            need = together[key]
        items.append(Item(need, chunk, lowest, shift))
        ahead = need
    items.reverse()
    return items


def _insert_workspace(windows: list[Window], unrolled: Unrolled, row: int) -> None:
    """Add the allocation of a workspace to a pass, where it first multiplies matrices."""
    places = [first_product(window.events, unrolled.rows) for window in windows]
    n = next((n for n, place in enumerate(places) if place is not None), 0)
    window, place = windows[n], places[n] or 0
    assert len(window.shifts) == 1, "the first layer is not one that is repeated"
    before, behind = window.events[:place], window.events[place:]
    parts = [Window(before, window.lowest, window.shifts), Window([row], 0, (0,))]
    windows[n : n + 1] = [*parts, Window(behind, window.lowest, window.shifts)]


class _Short:
    """A micro-batch as if no period were repeated, which gives the placed rows of the whole one.

    Its rows are numbered as in the windows of layers. Events of other windows are numbered back; those of copies of the
    repeated period are left out there, and placed.
    """

    __slots__ = (
        "_alive",
        "_base",
        "_beside",
        "_copies",
        "_deaths",
        "_middle",
        "_passes",
        "_placed",
        "_rows",
        "_sizes",
        "_stride",
        "_workspace",
    )

    def __init__(
        self, unrolled: Unrolled, passes: Sequence[Sequence[Window]], sizes: Sequence[int], workspace: int
    ) -> None:
        self._base, self._stride, self._copies = unrolled.base, unrolled.stride, unrolled.copies
        self._rows, self._sizes, self._workspace = unrolled.rows, sizes, workspace
        #: Rows that are placed; one of them speaks for its copies in all periods.
        self._placed: set[int] = set()
        self._passes = [[(window, self._numbered_back(window)) for window in windows] for windows in passes]
        forward, backward = ([event for _, short in windows for event in short] for windows in self._passes)
        self._middle = len(forward)
        self._deaths: dict[int, int] = {}
        self._place([*forward, *backward])

    def outliving(self, *, gradients: bool) -> list[int]:
        """All rows that are never freed: gradients, or the others."""
        found: list[int] = []
        for row, death in self._deaths.items():
            if death == _NEVER and row < self._workspace and (self._rows[row][3] == "gradients") == gradients:
                repeated = self._base + self._stride <= row < self._base + 2 * self._stride
                start, repeats = (row, self._copies + 1) if repeated else (self._in_full(row), 1)
                found += range(start, start + repeats * self._stride, self._stride)
        return found

    def chunks(self, *, large: bool) -> Iterator[list[tuple[Chunk, int, int]]]:
        """The chunks of each pass for a pool, with the lowest row and the shift of each repetition."""
        self._alive: dict[int, int] = {}
        self._beside = 0
        for windows in self._passes:
            cut = [(window, self._cut(window, short, large=large)) for window, short in windows]
            yield [
                (chunk, window.lowest, shift) for window, chunks in cut for shift in window.shifts for chunk in chunks
            ]

    def _numbered_back(self, window: Window) -> list[int | None]:
        """The events of a window with rows of the short micro-batch, and None for other events."""
        sizes, last, by = self._sizes, self._base + (2 + self._copies) * self._stride, self._copies * self._stride
        if window.lowest:
            return [event if sizes[max(event, ~event)] else None for event in window.events]
        short: list[int | None] = []
        middle = self._base + self._stride
        for event in window.events:
            row = max(event, ~event)
            if row < middle or row >= self._workspace:
                short.append(event if sizes[row] else None)
            elif row >= last:
                short.append((event - by if event >= 0 else event + by) if sizes[row] else None)
            else:
                self._placed.add(self._kind(row))
                short.append(event if row < middle + self._stride and sizes[row] else None)
        return short

    def _kind(self, row: int) -> int:
        """One number for a row and its copies in all periods."""
        base = self._base
        return row if row < base or row >= self._workspace else base + (row - base) % self._stride

    def _in_full(self, row: int) -> int:
        """The row of the whole micro-batch, where it is not repeated."""
        later = self._base + 2 * self._stride <= row < self._workspace
        return row + self._copies * self._stride if later else row

    def _place(self, events: Sequence[int | None]) -> None:
        """Place every row that outlives its pass, or is alive while a placed one of its pool is allocated."""
        births = []
        for at, event in enumerate(events):
            if event is None:
                continue
            if event >= 0:
                births.append((at, event, self._kind(event), self._sizes[event] > SMALL))
                self._deaths[event] = _NEVER
            else:
                self._deaths[~event] = at
        births.reverse()
        before = -1
        while len(self._placed) > before:
            before = len(self._placed)
            self._place_once(births)

    def _place_once(self, births: Sequence[tuple[int, int, int, bool]]) -> None:
        placed, deaths, middle = self._placed, self._deaths, self._middle
        following = [_NEVER, _NEVER]
        for at, row, kind, large in births:
            death = deaths[row]
            if kind not in placed and not (following[large] < death or at < middle <= death or death == _NEVER):
                continue
            placed.add(kind)
            following[large] = at

    def _cut(self, window: Window, short: Sequence[int | None], *, large: bool) -> list[Chunk]:
        """Cut the events of a window and a pool into chunks."""
        sizes, placed, alive = self._sizes, self._placed, self._alive
        waste = SMALL if large else 0
        chunks = [self._chunk(window)]
        for event, numbered in zip(window.events, short, strict=True):
            row = max(event, ~event)
            size = sizes[row]
            if not size or (size > SMALL) != large:
                continue
            chunk = chunks[-1]
            if numbered is None or self._kind(max(numbered, ~numbered)) in placed:
                if event >= 0:
                    chunk.ends_stretch = True
                if chunk.ends_stretch:
                    chunk.placed.append(event)
                else:
                    chunk.gap.append(event)
                    chunk.frees.append(event)
                continue
            if chunk.ends_stretch:
                chunk = self._chunk(window)
                chunks.append(chunk)
            chunk.gap.append(event)
            if event < 0:
                self._beside -= alive.pop(~numbered)
                continue
            count = len(alive)
            chunk.quick = max(chunk.quick, self._beside + (count + 1) * size)
            chunk.needs[size] = max(chunk.needs.get(size, 0), self._beside + count * (size - 1))
            alive[numbered] = size + waste
            self._beside += size + waste
        return chunks

    def _chunk(self, window: Window) -> Chunk:
        return Chunk([*self._alive] if window.lowest else [self._in_full(row) for row in self._alive])
