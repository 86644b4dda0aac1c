"""The lengths of a dataset's samples, and histories of micro-batches that are drawn from them."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING

from calculator.allocator.history import Padded
from calculator.estimation.packed_rows import packed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.allocator.history import Step
    from calculator.estimation.request import Request
    from calculator.inputs.training import Training

#: The seeds of the histories that are replayed.
SEEDS = range(3)

#: The number of micro-batches before the longest one. Segments are added when a length exceeds all earlier ones. The
#: n-th micro-batch does so with a probability of 1/n, so 4 of the first 32 do. In a whole epoch, the longest is rarely
#: among the first 32.
BEFORE = 32

#: The number of steps after the longest micro-batch. Of 72 replayed histories of 128 steps, 67 reserve the most within
#: 4 steps after it. They are of 12 plans of full fine-tuning, LoRA and QLoRA, with log-normal, uniform and bimodal
#: lengths.
AFTER = 4

#: The maximum number of micro-batches of a step that are drawn. Further ones add to existing gradients, as these do.
MOST_ACCUMULATED = 8

#: The maximum number of rows of a flattened micro-batch that are drawn. Further rows are assumed to have the average
#: number of tokens.
MOST_ROWS = 256


@dataclass(frozen=True, slots=True)
class SampleLengths:
    """Distinct lengths in ascending order, each with the number of samples that have it.

    Lengths are cut to the longest allowed one. Packed samples are rows of several samples.
    """

    pairs: tuple[tuple[int, int], ...]

    #: The number of samples in a flattened micro-batch, which is one row of all their tokens. None if each sample is
    #: padded.
    in_a_row: int | None = None

    @property
    def longest(self) -> int:
        """The length of the longest sample."""
        return self.pairs[-1][0]

    def longest_batch(self, training: Training) -> Padded:
        """Return the micro-batch that needs the most memory.

        It has the longest sample, and a shorter one if there is any. A flattened one has the longest rows.
        """
        if self.in_a_row is not None:
            return Padded(self._longest_rows(training.micro_batch_size), padding=False)
        mixed = training.micro_batch_size > 1 and len(self.pairs) > 1
        return Padded(self.longest, training.padding or mixed)

    def history(self, training: Training, seed: int) -> tuple[Step, ...]:
        """Return steps of drawn micro-batches. The step before the last `AFTER` steps ends with the longest one."""
        drawn = self._random_batches(training, Random(seed))  # noqa: S311  no secret is drawn
        size = min(training.gradient_accumulation_steps, MOST_ACCUMULATED)
        steps = [tuple(next(drawn) for _ in range(size)) for _ in range(-(-(BEFORE + 1) // size) + AFTER)]
        steps[-AFTER - 1] = (*steps[-AFTER - 1][:-1], self.longest_batch(training))
        return tuple(steps)

    def _random_batches(self, training: Training, random: Random) -> Iterator[Padded]:
        """Yield micro-batches of samples that are drawn with replacement.

        If a share F of the samples has at most some length, the longest of B samples has at most that length in a share
        F^B of the micro-batches. It is the length of all B samples in a share of (p / F)^B of those, where p is the
        share of that length.
        """
        size = training.micro_batch_size
        if self.in_a_row is not None:
            yield from self._drawn_rows(size, random)
        total = sum(count for _, count in self.pairs)
        upto = [count / total for count in accumulate(count for _, count in self.pairs)]
        while True:
            number = bisect_right(upto, random.random() ** (1 / size), hi=len(upto) - 1)
            length, count = self.pairs[number]
            below = (upto[number - 1] / upto[number]) ** size if number else 0.0
            alike = (count / total / upto[number]) ** size / (1 - below)
            yield Padded(length, training.padding or random.random() >= alike)

    def _longest_rows(self, rows: int) -> int:
        """Return the number of tokens of the longest rows together. A row is repeated if there are too few."""
        tokens, left = 0, rows
        for length, count in reversed(self.pairs):
            tokens += length * min(left, count)
            left -= min(left, count)
        return tokens + left * self.longest

    def _drawn_rows(self, size: int, random: Random) -> Iterator[Padded]:
        """Yield flattened micro-batches of rows that are drawn with replacement.

        At most a fixed number of rows is drawn for each.
        """
        lengths, counts = zip(*self.pairs, strict=True)
        some = min(size, MOST_ROWS)
        while True:
            tokens = sum(random.choices(lengths, counts, k=some))
            yield Padded(max(2, tokens * size // some), padding=False)


def sample_lengths(training: Training) -> SampleLengths | None:
    """Return the lengths of a run's samples, cut to `sequence_length`.

    Return None if all samples have that length.
    """
    if training.sequence_lengths is None:
        if training.torch_empty_cache_steps is None:
            return None
        return SampleLengths(((training.sequence_length, 1),))
    if training.packing:
        return _packed(training, training.sequence_lengths)
    counts: dict[int, int] = {}
    for length, count in training.sequence_lengths:
        cut = min(length, training.sequence_length)
        counts[cut] = counts.get(cut, 0) + count
    return SampleLengths(tuple(sorted(counts.items())), training.micro_batch_size if training.flattened else None)


def _packed(training: Training, lengths: tuple[tuple[int, int], ...]) -> SampleLengths:
    """Return the lengths of packed rows. Rows that are cut from one stream of tokens are full."""
    if training.packing_strategy == "wrapped":
        return SampleLengths(
            ((training.sequence_length, 1),), training.micro_batch_size if training.flattened else None
        )
    rows = packed(lengths, training.sequence_length, training.packing_strategy)
    return SampleLengths(rows.pairs, rows.samples_in(training.micro_batch_size))


def uncut(request: Request) -> Request:
    """Return the request with the length of its longest sample, if it has samples and no `sequence_length`."""
    lengths = request.training.sequence_lengths
    if lengths is None or request.length_given:
        return request
    training = replace(request.training, sequence_length=max(length for length, _ in lengths))
    return replace(request, training=training, length_given=True)


def with_longest_batch(request: Request) -> Request:
    """Return the request for the step of the longest micro-batch."""
    if request.training.sequence_lengths is None:
        return request
    request = uncut(request)
    training = request.training
    lengths = sample_lengths(training)
    if lengths is None:
        return request
    longest = lengths.longest_batch(training)
    if lengths.in_a_row is not None:
        cut = training.one_row(longest.length, lengths.in_a_row)
    else:
        cut = replace(training, sequence_length=longest.length, padding=longest.padding)
    return replace(request, training=cut, drawn=training)


def with_one_length(request: Request) -> Request:
    """Return the request with only longest micro-batches and a cache that is never emptied."""
    request = with_longest_batch(request)
    training = replace(request.training, sequence_lengths=None, torch_empty_cache_steps=None)
    return replace(request, training=training, drawn=None)
