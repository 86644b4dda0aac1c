"""A micro-batch of a run on a flat device: its rows, the parts of its passes, and what outlives it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.allocator.parts import ListedPart, Rows, parts_of
from calculator.allocator.replay import PASSES, WORKSPACE
from calculator.allocator.segments import BLOCK
from calculator.allocator.stage_cache import by_pool, reader
from calculator.allocator.transients import PARTS, MicroBatch
from calculator.training_step.unrolled import Unrolled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.allocator.flat_pool import Blocks, Places
    from calculator.allocator.parts import Part
    from calculator.allocator.replay import Batch
    from calculator.allocator.stage_cache import Reader


class FlatBatch:
    """The rows of a micro-batch and the parts of its passes.

    `parts_of_first` includes the allocation of workspaces, which only occurs in the first step of a run.
    """

    __slots__ = ("gradients", "left", "outliving", "parts", "parts_of_first", "rows")

    #: The rows that outlive the micro-batch: gradients, and others. They are set when the pools of rows are known.
    gradients: Outliving
    left: Outliving

    def __init__(self, batch: Batch, workspaces: tuple[int, int] | None) -> None:
        """List the rows and parts of a micro-batch.

        The first micro-batch of a run allocates `workspaces`. Their rows follow its own.
        """
        self.rows = Rows()
        rows = batch.given.rows
        self.rows.add([row[4] // BLOCK for row in rows], lambda n: rows[n][0])
        self.rows.streams = batch.given.streams
        workspace_rows = self.rows.add([size // BLOCK for size in workspaces or ()], lambda _: WORKSPACE)
        self.parts: list[list[Part]]
        self.parts_of_first: list[list[Part]]
        if isinstance(batch.given, Unrolled):
            cut = MicroBatch(batch.given, workspaces)
            self.outliving = [[row for rows in of for row in rows] for of in (cut.gradients, cut.left)]
            cut_parts = [parts_of(cut, n) for n in range(len(PASSES))]
            self.parts_of_first = [[*parts] for parts in cut_parts]
            self.parts = [[part.without(workspace_rows) for part in parts] for parts in cut_parts]
            return
        self.outliving = [[*batch.given.gradients], [*batch.given.left]]
        passes: list[Sequence[int]] = [batch.forward, batch.backward]
        self.parts = [self._listed(events) for events in passes]
        for n, row in enumerate(workspace_rows):
            start = batch.given.workspace_place(passes[n])
            passes[n] = [*passes[n][:start], row, *passes[n][start:]]
        self.parts_of_first = [self._listed(events) for events in passes]

    def _listed(self, events: Sequence[int]) -> list[Part]:
        size = -(-len(events) // PARTS) or 1
        return [ListedPart(events[at : at + size], self.rows) for at in range(0, len(events), size)] or [
            ListedPart((), self.rows)
        ]


class Outliving:
    """Rows that outlive a micro-batch, and what reads their places.

    Attributes:
        rows: The rows of each pool.
    """

    __slots__ = ("_readers", "rows")

    def __init__(self, of: Sequence[int], rows: Rows, count: int) -> None:
        self.rows = by_pool([row for row in of if rows.sizes[row]], rows, count)
        self._readers: list[Reader] = [*map(reader, self.rows)]

    def blocks(self, places: Places) -> list[Blocks]:
        """Return the blocks of these rows in each pool."""
        addresses, end_addresses = places
        return [(read(addresses), read(end_addresses)) for read in self._readers]
