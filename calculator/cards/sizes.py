"""The sizes of the runs in the table: sequence lengths and micro-batches."""

from __future__ import annotations

from dataclasses import dataclass

from calculator.cards.settings import BATCH_LENGTH, BATCHES, LENGTHS

#: The micro-batch size and the sequence length of a run.
Sizes = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedSizes:
    """The sizes that are tried for one model and method, the smallest first."""

    #: The longest sequence that the model's context, or the request's field, allows.
    context: int
    #: Whether the model's config determines the length, which is then `context`.
    one_length: bool

    @property
    def lengths(self) -> tuple[int, ...]:
        """The sequence lengths."""
        return (self.context,) if self.one_length else tuple(length for length in LENGTHS if length <= self.context)

    @property
    def batch_length(self) -> int:
        """The sequence length of the runs with several micro-batch sizes."""
        return max(length for length in self.lengths if length <= BATCH_LENGTH)

    @property
    def by_length(self) -> tuple[Sizes, ...]:
        """The sizes with a micro-batch of 1."""
        return tuple((1, length) for length in self.lengths)

    @property
    def by_batch(self) -> tuple[Sizes, ...]:
        """The sizes with larger micro-batches."""
        return tuple((batch, self.batch_length) for batch in BATCHES)
