"""The layers of a load that are placed in the same way. They are placed at once.

Each layer requests what the one before requested, for rows of its own, and frees only such rows and those of the layer
before. Most of what a load requests is cut from one large free block, which the warmup left. So a layer often finds
what an earlier one found, at higher addresses.
"""

from __future__ import annotations

from itertools import chain, compress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.allocator.flat_pool import FlatPool, Placed, Places

#: The maximum number of layers that are played before others are placed like them.
_ATTEMPTS = 20


class EqualLayers(NamedTuple):
    """Layers with the same events.

    Attributes:
        events: The events of the first layer.
        step: By how much the rows of the next layer are higher.
        times: The number of layers.
    """

    events: list[int]
    step: int
    times: int

    def of(self, number: int) -> list[int]:
        """Return the events of a layer."""
        return shifted_rows(self.events, number * self.step) if number else self.events

    def every(self) -> list[int]:
        """Return the events of all layers."""
        return [*chain.from_iterable(map(self.of, range(self.times)))]


def shifted_rows(events: Sequence[int], rows: int) -> list[int]:
    """Return the events with rows that are shifted by a number."""
    return [event + rows if event >= 0 else event - rows for event in events]


class _Start(NamedTuple):
    """The state of a pool where a layer starts.

    Blocks that no layer uses, from this one on, are left out: they are smaller than every request, and what is before
    and after them is not freed.

    Attributes:
        first, last: The addresses of the largest free block.
        near: The places of other free blocks, relative to the start of the largest one.
        freed: The places of the rows that the layer frees.
        unused: The keys of blocks that are left out.
        segments: The number of segments.
    """

    first: int
    last: int
    near: tuple[Placed, ...]
    freed: tuple[Placed, ...]
    unused: set[int]
    segments: int


def play_equal_layers(
    pool: FlatPool, layers: EqualLayers, sizes: Sequence[int], places: Places, freed: Iterable[int]
) -> None:
    """Place layers. Those that are placed like earlier ones are placed at once.

    `freed` are rows that are freed before and after the layers.
    """
    own = [row for row in layers.events if row >= 0]
    carried = [*{~event for event in layers.events if event < 0}.difference(own)]
    if not pool.waste or not _only_carried(layers, {*own}, carried, freed):
        pool.play(layers.every(), sizes, places)
        return
    for number in range(_placed_at_once(pool, layers, sizes, places, own, carried), layers.times):
        pool.play(layers.of(number), sizes, places)


def _placed_at_once(
    pool: FlatPool,
    layers: EqualLayers,
    sizes: Sequence[int],
    places: Places,
    own: Sequence[int],
    carried: Sequence[int],
) -> int:
    """Place the first layers, and those that are placed like them. Return their number."""
    least, starts, most = min(map(sizes.__getitem__, own)), list[_Start](), min(layers.times, _ATTEMPTS)
    for number in range(1, most + 1):
        pool.play(layers.of(number - 1), sizes, places)
        if not pool.free_keys:
            return number
        of_next = [(places[0][row + by], places[1][row + by]) for by in (number * layers.step,) for row in carried]
        later = _start(pool, of_next, least)
        earlier = next((start for start in starts if _are_equal(start, later)), None)
        starts.append(later)
        if earlier is None:
            continue
        period = number - 1 - starts.index(earlier)
        placed = (row + n * layers.step for n in range(number - period, number) for row in own)
        certain = _repeat_count(pool, earlier, later, max(map(places[1].__getitem__, placed)))
        times = max(0, min((layers.times - number) // period, certain))
        _repeat(pool, earlier, later, times)
        by = times * (later.first - earlier.first)
        for row, block, (address, behind) in zip(carried, earlier.freed, later.freed, strict=True):
            at, moves = row + (number + times * period) * layers.step, block != (address, behind)
            places[0][at], places[1][at] = (address + by, behind + by) if moves else (address, behind)
        return number + times * period
    return most


def _only_carried(layers: EqualLayers, own: set[int], carried: Iterable[int], freed: Iterable[int]) -> bool:
    """Return whether each layer frees only rows of its own and those that are `carried` from the layer before.

    The rows of the last layer that the next one would free may be freed in other parts of the load, as `freed` are.
    """
    first, step = min(own, default=0), layers.step
    after = first + layers.times * step
    of_last = {row + layers.times * step for row in carried}
    return (
        bool(own)
        and all(row + step in own for row in carried)
        and not any(
            first <= row < after and row not in of_last and (row - first) % step + first in own for row in freed
        )
    )


def _start(pool: FlatPool, freed: Sequence[Placed], least: int) -> _Start:
    *others, (first, last) = pool.blocks(pool.free_keys)
    edges = {*chain.from_iterable(freed)}
    is_used = [end - start >= least or start in edges or end in edges for start, end in others]
    return _Start(
        first=first,
        last=last,
        near=tuple((start - first, end - first) for start, end in compress(others, is_used)),
        freed=tuple(freed),
        unused={key for key, used in zip(pool.free_keys, is_used, strict=False) if not used},
        segments=len(pool.segments),
    )


def _are_equal(earlier: _Start, later: _Start) -> bool:
    """Return whether a layer finds what an earlier one found, at higher addresses.

    Freed rows may be where those of the earlier layer were, if everything else is behind them. Then they keep their
    order, and no free block is next to them.
    """
    by = later.first - earlier.first
    return (
        earlier.near == later.near
        and earlier.last == later.last
        and earlier.segments == later.segments
        and by > 0
        and earlier.unused <= later.unused
        and all(
            block == (start - by, end - by) or (block == (start, end) and end < _edge(earlier, later))
            for block, (start, end) in zip(earlier.freed, later.freed, strict=True)
        )
    )


def _edge(earlier: _Start, later: _Start) -> int:
    """Return the lowest address that is free, or freed by a layer, and moves from a layer to the later one."""
    moving = [start for (start, _), block in zip(earlier.freed, later.freed, strict=True) if block[0] != start]
    return min([earlier.first, *moving, *(earlier.first + start for start, _ in earlier.near)])


def _repeat_count(pool: FlatPool, earlier: _Start, later: _Start, highest: int) -> int:
    """Return how many more times what was placed between two starts is certain to be placed in the same way.

    `highest` is the highest end address of what was placed. The largest block was never cut beyond it. So every other
    block that is used is between `_edge` and that address, or is one of the freed rows. As long as the largest block
    is larger than these, it serves a request only if no other block does.
    """
    highest = max(highest, later.first)
    reach = max(highest - _edge(earlier, later), pool.waste, *(end - start for start, end in earlier.freed))
    return (later.last - highest - reach - 1) // (later.first - earlier.first)


def _repeat(pool: FlatPool, earlier: _Start, later: _Start, times: int) -> None:
    """Repeat what happened between two starts."""
    by, shift = later.first - earlier.first, pool.shift
    first = later.first + times * by
    near = [end - start << shift | first + start for start, end in later.near]
    unused = [key + n * by for key in later.unused - earlier.unused for n in range(1, times + 1)]
    pool.set_free([*later.unused, *unused, *near, later.last - first << shift | first])
