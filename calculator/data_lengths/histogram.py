"""A histogram of sample lengths, as `training.sequence_lengths` takes it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from calculator.inputs.sample_lengths import MOST_LENGTHS, SHORTEST

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The multiples to which lengths are rounded up if there are too many distinct lengths.
ROUNDINGS = (8, 64, 512, 4096, 65_536)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """The samples of a data set by length.

    Attributes:
        pairs: Each length with its number of samples, in ascending order.
        longest_sample: The number of the first sample that has the longest length, from 1.
        rounded_to: The multiple to which lengths are rounded up. 1 if they are exact.
        left_out: Samples of fewer than two tokens, which have nothing to predict.
    """

    pairs: tuple[tuple[int, int], ...]
    longest_sample: int
    rounded_to: int
    left_out: int

    @property
    def samples(self) -> int:
        """The number of samples."""
        return sum(count for _, count in self.pairs)

    @property
    def tokens(self) -> int:
        """The tokens of all samples."""
        return sum(length * count for length, count in self.pairs)

    @property
    def longest(self) -> int:
        """The length of the longest sample in tokens."""
        return self.pairs[-1][0]

    def percentile(self, share: float) -> int:
        """Return the shortest length that a share of the samples does not exceed. `share` is from 0 to 1."""
        upto = [*accumulate(count for _, count in self.pairs)]
        return self.pairs[min(bisect_left(upto, share * upto[-1]), len(upto) - 1)][0]

    def cut(self, longest: int) -> Lengths:
        """Return the samples truncated to a length."""
        counts: Counter[int] = Counter()
        for length, count in self.pairs:
            counts[min(length, longest)] += count
        return Lengths(
            pairs=tuple(sorted(counts.items())),
            longest_sample=self.longest_sample,
            rounded_to=self.rounded_to,
            left_out=self.left_out,
        )

    def padded_tokens(self, batch: int) -> int:
        """Return the expected tokens of an epoch of random batches, each padded to its longest sample.

        If a share F of the samples has at most some length, all B samples of a batch have at most that length in a
        share F^B of the batches.
        """
        total, below, expected = self.samples, 0.0, 0.0
        seen = 0
        for length, count in self.pairs:
            seen += count
            upto = (seen / total) ** batch
            expected += length * (upto - below)
            below = upto
        return round(expected * total)

    def bucketed_tokens(self, batch: int) -> int:
        """Return the tokens of an epoch whose batches have samples of similar lengths, each padded to its longest."""
        tokens, room, longest = 0, 0, 0
        for length, count in reversed(self.pairs):
            left = count
            fitting = min(room, left)
            tokens += longest * fitting
            left, room = left - fitting, room - fitting
            if left:
                tokens += length * left
                room, longest = -left % batch, length
        return tokens

    def packed_rows(self, length: int) -> int:
        """Return the number of rows of a length that hold all tokens, one sample after the other."""
        return -(-self.cut(length).tokens // length)


def lengths_of(samples: Iterable[int]) -> Lengths | None:
    """Return the histogram of the samples' lengths. None if no sample has two tokens."""
    counts: Counter[int] = Counter()
    longest, longest_sample, left_out = 0, 0, 0
    for number, length in enumerate(samples, 1):
        if length < SHORTEST:
            left_out += 1
            continue
        counts[length] += 1
        if length > longest:
            longest, longest_sample = length, number
    if not counts:
        return None
    multiple = next((step for step in (1, *ROUNDINGS) if len(_rounded(counts, step)) <= MOST_LENGTHS), ROUNDINGS[-1])
    return Lengths(
        pairs=tuple(sorted(_rounded(counts, multiple).items())),
        longest_sample=longest_sample,
        rounded_to=multiple,
        left_out=left_out,
    )


def _rounded(counts: Counter[int], multiple: int) -> Counter[int]:
    rounded: Counter[int] = Counter()
    for length, count in counts.items():
        rounded[-(-length // multiple) * multiple] += count
    return rounded
