"""Moments of a step under stage 3, of which those with the most bytes are its peaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.training_step.zero3.other_rows import counted

if TYPE_CHECKING:
    from calculator.engine.live_tensors import StorageCounts
    from calculator.sharding.zero3.parameters import Partitioned
    from calculator.sharding.zero3.track import Track
    from calculator.training_step.peak import MicroBatchRun
    from calculator.training_step.zero3.curve import Curve
    from calculator.training_step.zero3.other_rows import OtherRows

#: The number of copies of the repeated layers that came before, one for each pass.
Repeats = tuple[int, ...]


class PeakMoment(NamedTuple):
    """The peak moment of a phase: its total bytes, its position, and the bytes that stage 3 adds.

    `in_first` is whether it is in a first micro-batch that does more than the others, and `missing` what does not exist
    yet of what is on its tape.
    """

    bytes: int
    event: int
    gathered: int
    reducing: int
    repeats: Repeats = ()
    in_first: bool = False
    missing: StorageCounts | None = None


#: The value before any moment is recorded.
EMPTY = PeakMoment(-1, 0, 0, 0)


class Reading(NamedTuple):
    """A moment: its place in the step, the event before it, and its bytes without those of the reduction.

    `gradient` is the parameter whose gradient is ready, or None.
    """

    position: int
    event: int
    bytes: int
    gathered: int
    gradient: Partitioned | None = None


class Skipped(NamedTuple):
    """The copies between two that are followed, in the backward pass.

    Attributes:
        readings: The readings of the copy before them.
        repeats: The number of copies before that copy.
        copies: The number of skipped copies.
        growth: The bytes by which each copy exceeds the one before it, without the reduction.
        alike: The first copy that is reduced like the copy before it, and its growth including the reduction.
    """

    readings: list[Reading]
    repeats: Repeats
    copies: int
    growth: int
    alike: tuple[int, int] | None


class Batch(NamedTuple):
    """A micro-batch: its moments (copies before each, position on the tape, bytes), and its skipped copies."""

    moments: list[tuple[Repeats, int, int]]
    skipped: list[Skipped]


class First(NamedTuple):
    """The first of several micro-batches, and what earlier passes over other rows have left in it."""

    batch: MicroBatchRun
    curve: Curve
    rows: list[OtherRows]

    def missing(self, track: Track) -> StorageCounts:
        """Return the storages that do not exist yet in a segment of a no-grad run."""
        return counted(self.batch, self.rows[track.run].missing(track.rows_left))
