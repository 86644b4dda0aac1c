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

#: Histories that are replayed.
SEEDS = range(3)

#: Micro-batches before the longest. Segments are added where a length is above all before it: with a probability of 1/n
#: in the n-th micro-batch, so 4 times in 32. In a whole epoch the longest is rarely among the first 32.
BEFORE = 32

#: Steps after the longest micro-batch. Of 72 replayed histories of 128 steps, 67 reserve the most at most 4 steps after
#: it: 12 plans of full fine-tuning, LoRA and QLoRA, with log-normal, uniform and bimodal lengths.
AFTER = 4

#: The most micro-batches of a step that are drawn: further ones find gradients as these do.
MOST_ACCUMULATED = 8

#: The most rows of a flattened micro-batch that are drawn: further ones have as many tokens on average.
MOST_ROWS = 256


@dataclass(frozen=True, slots=True)
class SampleLengths:
    """Distinct lengths in ascending order, each with the number of samples that have it, cut to the longest allowed.

    Packed samples are rows of several.
    """

    pairs: tuple[tuple[int, int], ...]

    #: The samples of a micro-batch, where its rows are one row of all their tokens; None where each is padded.
    in_a_row: int | None = None

    @property
    def longest(self) -> int:
        """The longest sample."""
        return self.pairs[-1][0]

    def longest_batch(self, training: Training) -> Padded:
        """The micro-batch that needs the most: it has the longest sample, and a shorter one if there is any.

        A flattened one has the longest rows.
        """
        if self.in_a_row is not None:
            return Padded(self._longest_rows(training.micro_batch_size), padding=False)
        mixed = training.micro_batch_size > 1 and len(self.pairs) > 1
        return Padded(self.longest, training.padding or mixed)

    def history(self, training: Training, seed: int) -> tuple[Step, ...]:
        """Steps of drawn micro-batches, of which the last before the last `AFTER` steps ends with the longest."""
        drawn = self._drawn(training, Random(seed))  # noqa: S311  no secret is drawn
        size = min(training.gradient_accumulation_steps, MOST_ACCUMULATED)
        steps = [tuple(next(drawn) for _ in range(size)) for _ in range(-(-(BEFORE + 1) // size) + AFTER)]
        steps[-AFTER - 1] = (*steps[-AFTER - 1][:-1], self.longest_batch(training))
        return tuple(steps)

    def _drawn(self, training: Training, random: Random) -> Iterator[Padded]:
        """Micro-batches of samples that are drawn with replacement.

        With a share F of the samples up to a length, the longest of B samples has at most that length in a share F^B of
        the micro-batches. It is the length of all of them in a share of (p / F)^B of those, p its own share.
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
        """The tokens of the longest rows together; a row comes again if there are too few."""
        tokens, left = 0, rows
        for length, count in reversed(self.pairs):
            tokens += length * min(left, count)
            left -= min(left, count)
        return tokens + left * self.longest

    def _drawn_rows(self, size: int, random: Random) -> Iterator[Padded]:
        """Flattened micro-batches of rows that are drawn with replacement: as many of them as there are, or some."""
        lengths, counts = zip(*self.pairs, strict=True)
        some = min(size, MOST_ROWS)
        while True:
            tokens = sum(random.choices(lengths, counts, k=some))
            yield Padded(max(2, tokens * size // some), padding=False)


def sample_lengths(training: Training) -> SampleLengths | None:
    """The lengths of a run's samples, cut to `sequence_length`; None where all have that length."""
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
    """The lengths of packed rows. Those that are cut from one stream of tokens are full."""
    if training.packing_strategy == "wrapped":
        return SampleLengths(
            ((training.sequence_length, 1),), training.micro_batch_size if training.flattened else None
        )
    rows = packed(lengths, training.sequence_length, training.packing_strategy)
    return SampleLengths(rows.pairs, rows.samples_in(training.micro_batch_size))


def uncut(request: Request) -> Request:
    """The request with the length of its longest sample, if it has samples and no `sequence_length`."""
    lengths = request.training.sequence_lengths
    if lengths is None or request.length_given:
        return request
    training = replace(request.training, sequence_length=max(length for length, _ in lengths))
    return replace(request, training=training, length_given=True)


def with_longest_batch(request: Request) -> Request:
    """The request whose step is that of the longest micro-batch."""
    request = uncut(request)
    training = request.training
    lengths = sample_lengths(training)
    if training.sequence_lengths is None or lengths is None:
        return request
    longest = lengths.longest_batch(training)
    if lengths.in_a_row is not None:
        own = training.of_row(longest.length, lengths.in_a_row)
    else:
        own = replace(training, sequence_length=longest.length, padding=longest.padding)
    return replace(request, training=own, drawn=training)


def of_one_length(request: Request) -> Request:
    """The request whose micro-batches are all the longest, with a cache that is never emptied."""
    request = with_longest_batch(request)
    training = replace(request.training, sequence_lengths=None, torch_empty_cache_steps=None)
    return replace(request, training=training, drawn=None)
