"""What stages of a run leave in each pool, by what they find there.

A stage leaves the same wherever a pool has the same segments and free blocks, and the tensors that are freed in the
stage or later are in the same places. Replays of a run with several capacities often come to that: most differ in few
large segments, and hardly in the pool of small tensors.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from calculator.allocator.flat_pool import FlatPool, Placed, Places
    from calculator.allocator.flat_replay import FlatRun, Stage
    from calculator.allocator.parts import Net, Rows

    #: Reads the places of some rows from those of all.
    Reader = Callable[[Sequence[int]], object]

#: The most results that are kept of a run: some ten kilobytes each.
MAX_KNOWN = 1024


class Left:
    """A pool after a stage, and the places of tensors that the stage allocated and that are freed later."""

    __slots__ = ("following", "placed", "pool")

    def __init__(self, pool: FlatPool, placed: Sequence[Placed]) -> None:
        self.pool = pool
        self.placed = placed
        #: What stages leave that find the pool so, by their identity.
        self.following: dict[int, Left] = {}


class _StageRows(NamedTuple):
    """The rows of a stage that are needed in it or later; those of each pool.

    Attributes:
        found: Reads the places of those that are allocated before it.
        left: Those that it allocates.
    """

    found: Sequence[Reader]
    left: Sequence[Sequence[int]]


class KnownStages:
    """What the stages of a run left in pools, in any of its replays."""

    __slots__ = ("_known", "_rows")

    def __init__(self, run: FlatRun) -> None:
        self._known: dict[Hashable, Left] = {}
        #: The rows of each stage, by its identity: the run keeps its stages.
        self._rows: dict[int, _StageRows] = {}
        nets: dict[int, Net] = {}
        for stages in run.stages:
            self._rows.update(_rows_of(run, stages, nets))

    def of(self, stage: Stage, places: Places, before: list[Left | None]) -> KnownStage:
        """What is known of a stage, for a replay whose rows have these places.

        `before` is what is known of each pool before it, and is set to that after it.
        """
        return KnownStage(self._known, id(stage), self._rows[id(stage)], places, before)


class KnownStage:
    """What is known of a stage, for one replay."""

    __slots__ = ("_before", "_found", "_known", "_places", "_rows", "_stage")

    def __init__(
        self,
        known: dict[Hashable, Left],
        stage: int,
        rows: _StageRows,
        places: Places,
        before: list[Left | None],
    ) -> None:
        self._known = known
        self._stage = stage
        self._rows = rows
        self._places = places
        self._before = before
        self._found: Hashable = None

    def left(self, number: int, pool: FlatPool) -> FlatPool | None:
        """Return the pool after the stage and write the addresses of its rows; None if `add` has not recorded it."""
        addresses, behinds = self._places
        before = self._before[number]
        known = before.following.get(self._stage) if before is not None else None
        if known is None:
            read = self._rows.found[number]
            self._found = self._stage, number, pool.contents(), read(addresses), read(behinds)
            known = self._known.get(self._found)
        if known is None:
            return None
        self._follow(number, known)
        for row, (address, behind) in zip(self._rows.left[number], known.placed, strict=True):
            addresses[row], behinds[row] = address, behind
        return known.pool.copied()

    def add(self, number: int, pool: FlatPool) -> None:
        """Keep the pool that `left` did not know, after the stage."""
        if len(self._known) < MAX_KNOWN:
            addresses, behinds = self._places
            placed = [(addresses[row], behinds[row]) for row in self._rows.left[number]]
            known = self._known[self._found] = Left(pool.copied(), placed)
            self._follow(number, known)
        else:
            self._before[number] = None

    def _follow(self, number: int, known: Left) -> None:
        before, self._before[number] = self._before[number], known
        if before is not None:
            before.following[self._stage] = known


def _rows_of(run: FlatRun, stages: Sequence[Stage], nets: dict[int, Net]) -> Iterator[tuple[int, _StageRows]]:
    """The rows of the stages of a step, each with the stage's identity, from the last stage on."""
    needed: dict[int, set[int]] = {}
    for stage in reversed(stages):
        rows = needed.setdefault(id(stage.rows), set())
        if stage.ends_batch is not None:
            rows.update(stage.ends_batch.left)
            if run.makes_gradients(stage.ends_batch):
                rows.update(stage.ends_batch.gradients)
        if id(stage.part) not in nets:
            nets[id(stage.part)] = stage.part.net()
        allocated, freed = nets[id(stage.part)]
        left = _by_pool(rows & allocated, stage.rows, run.pools)
        rows -= allocated
        rows |= freed
        yield id(stage), _StageRows([*map(_reader, _by_pool(rows, stage.rows, run.pools))], left)
        rows.difference_update(row for row, _ in stage.takes)


def _by_pool(of: Iterable[int], rows: Rows, count: int) -> list[list[int]]:
    pools: list[list[int]] = [[] for _ in range(count)]
    for row in of:
        pools[rows.keys[row]].append(row)
    return pools


def _reader(rows: Sequence[int]) -> Reader:
    return itemgetter(*rows) if rows else lambda _: None
