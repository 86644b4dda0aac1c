"""The interval of an answer's memory, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.presentation.format import size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.estimation.answer import Memory
    from calculator.estimation.interval import MemoryInterval


def interval_sentence(interval: MemoryInterval) -> str:
    """State both ends of the required memory, or of the allocated peak if only that differs."""
    low, high = interval.required_bytes
    ends = f"{size(low)} to {size(high)}"
    if low == high:
        least, most = interval.peak_allocated_bytes
        ends = f"the tensors' peak is {size(least)} to {size(most)}, and {size(high)} is required at both ends"
    return (
        f"The memory is an interval, from the trainer's source: {ends}. The verdict and all other figures are those of "
        "the high end. What decides it:"
    )


def interval_lines(memory: Memory) -> Iterator[str]:
    """Yield the interval and its reasons. Yield nothing for an answer without an interval."""
    if memory.interval is not None:
        yield interval_sentence(memory.interval)
        yield from (f"- {reason}" for reason in memory.interval.reasons)
