"""The limits of a histogram of sample lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The largest number of distinct lengths. It limits the size of a page and of its address; a replay takes no longer.
MOST_LENGTHS = 4_096

#: The shortest and the longest sample in tokens, and the largest number of samples of one length.
SHORTEST, LONGEST, MOST_SAMPLES = 2, 16_777_216, 10**12


def problem_of_lengths(pairs: Sequence[tuple[int, int]]) -> str | None:
    """Return an error in a histogram, or None."""
    if len(pairs) > MOST_LENGTHS:
        return f"has {len(pairs):,} pairs, at most {MOST_LENGTHS:,} are read: round lengths up to a multiple of 8 or 64"
    for length, count in pairs:
        if not SHORTEST <= length <= LONGEST:
            return f"has the length {length:,}: a sample has {SHORTEST} to {LONGEST:,} tokens"
        if not 1 <= count <= MOST_SAMPLES:
            return f"has {count:,} samples of {length:,} tokens: a length has 1 to {MOST_SAMPLES:,}; leave it out"
    if len({length for length, _ in pairs}) < len(pairs):
        return "has a length twice: add up its samples"
    return None
