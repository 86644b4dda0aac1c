"""A chunk of a micro-batch's events (see `chunks`)."""

from __future__ import annotations

from typing import NamedTuple


class Moved(NamedTuple):
    """Events, and the indices of allocations and of frees whose rows differ from repetition to repetition."""

    events: list[int]
    allocated: list[int]
    freed: list[int]

    @classmethod
    def of(cls, events: list[int], lowest: int) -> Moved:
        """Return events of which rows from `lowest` on differ."""
        allocated = [at for at, event in enumerate(events) if event >= lowest]
        return cls(events, allocated, [at for at, event in enumerate(events) if ~event >= lowest])


class Chunk:
    """The events of a part of a window: a gap without allocations of placed tensors, then events of placed tensors.

    Attributes:
        gap: The events of the gap: those of transients, and frees of placed tensors.
        transients: The events of transients in the gap.
        allocates: Whether one of these is an allocation.
        counts: The number of transients that are alive before each of these allocations.
        frees: The frees of placed tensors in the gap.
        placed: The events after the gap, which all belong to placed tensors.
        ends_stretch: Whether one of them is an allocation.
        carried: The transients that are alive at the start of the chunk.
        recurs: Whether it is repeated with the same rows.
        moved: Events of it, with those whose rows differ from repetition to repetition.
        number: The number of the chunk among those of its pool.
    """

    __slots__ = (
        "_freed",
        "allocates",
        "carried",
        "counts",
        "ends_stretch",
        "frees",
        "gap",
        "moved",
        "number",
        "placed",
        "recurs",
        "transients",
    )

    def __init__(self, carried: list[int], *, recurs: bool) -> None:
        self.gap: list[int] = []
        self.transients: list[int] = []
        self.allocates = False
        self.counts: list[int] = []
        self.frees: list[int] = []
        self.placed: list[int] = []
        self.ends_stretch = False
        self.carried = carried
        self.recurs = recurs
        self.moved: dict[tuple[bool, int], Moved] = {}
        self.number = 0
        self._freed: list[int] | None = None

    @property
    def freed(self) -> list[int]:
        """The rows that the chunk frees before it allocates them, if it does.

        The chunk must be complete when this is first read.
        """
        if self._freed is None:
            first = dict[int, int]()
            for event in (*self.gap, *self.placed):
                first.setdefault(max(event, ~event), event)
            self._freed = [row for row, event in first.items() if event < 0]
        return self._freed
