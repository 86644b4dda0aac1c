"""The tensors that passes over other rows leave while a trainer scores the completions of all micro-batches.

The last pass is interpreted. In an earlier one, the log-probabilities of later rows do not exist yet, and in the first
one no outputs of another.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from calculator.engine.live_tensors import StorageCounts
from calculator.trainers.trl.generating import OTHER_OUTPUTS, OTHER_ROWS, OWN_ROWS

if TYPE_CHECKING:
    from calculator.training_step.peak import MicroBatchRun


class OtherRows(NamedTuple):
    """The rows of the allocation log of one no-grad run: log-probabilities of other rows, and other outputs."""

    logps: list[int]
    outputs: list[int]

    def missing(self, rows_left: int) -> list[int]:
        """Return the rows that do not exist yet while the given number of micro-batches has none."""
        if rows_left == len(self.logps):
            return [*self.logps, *self.outputs]
        return self.logps[len(self.logps) - rows_left :] if rows_left < len(self.logps) else []


def other_rows(batch: MicroBatchRun) -> list[OtherRows]:
    """Return the rows of each no-grad run, in order."""
    tape = batch.run.tape
    marks = [(at, label) for at, label in tape.marks if label in (OTHER_ROWS, OTHER_OUTPUTS, OWN_ROWS)]
    rows = {
        label: [
            [row for row in tape.events[start:end] if row >= 0]
            for (start, own), (end, _) in pairwise(marks)
            if own == label
        ]
        for label in (OTHER_ROWS, OTHER_OUTPUTS)
    }
    return [
        OtherRows(*rows_and_outputs) for rows_and_outputs in zip(rows[OTHER_ROWS], rows[OTHER_OUTPUTS], strict=True)
    ]


def counted(batch: MicroBatchRun, rows: list[int]) -> StorageCounts:
    """Count rows of the allocation log by their kinds."""
    storages = batch.recording.storages
    return StorageCounts(storages, Counter(storages.kinds.kind_of_row[row] for row in rows))
