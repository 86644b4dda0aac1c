"""The most that can be alive in the passes of the first layer where it was not run (see `first_layer`).

Its forward pass comes first: the layer that was run has as much alive there, beside what the first layer keeps. Its
backward pass comes last, when all others have left their gradients; of the rest no more is alive than in the backward
pass that was run.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from calculator.engine.lifetimes import by_size

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator

    from calculator.engine.recording import Recording
    from calculator.engine.tape import Allocation


def is_below_the_peak(recording: Recording, remaining: Counter[Allocation]) -> bool:
    """Whether no more bytes are alive in its backward pass than elsewhere; `remaining` is what each layer leaves.

    There are more in the pass of the layer that comes first there, or at the phase's peak wherever that is.
    """
    backward, curve = recording.windows[1], recording.curve
    gradients = (backward.copies + 1) * sum([born[4] * count for born, count in remaining.items()])
    cached = sum([born[4] for _, _, born in recording.dropped])
    if gradients <= curve.growth[2] - cached + backward.copies * (curve.growth[0] - cached):
        return True
    peak = curve.peak(recording.tape.position("backward"), recording.tape.position("end"))
    return max(curve.without_copies(backward.start, backward.end)) + gradients <= peak.bytes


def counts(recording: Recording) -> Iterator[tuple[int, int]]:
    """Sizes of which more storages may be alive in its backward pass than elsewhere, and how many at most.

    Only gradients add up over the others. Of a size of theirs there are no more than elsewhere where the layer that
    comes first in the backward pass has as many, or where there are most when the step ends, with all gradients.
    """
    backward, kept, each = recording.windows[1], recording.sizes[2], recording.sizes[0]
    start, end = backward.start, recording.tape.position("end")
    changes = recording.changes[start:end]
    seen = set(changes)
    for size, count in by_size(recording.remaining).items():
        gradients = (backward.copies + 1) * count
        if gradients <= kept.get(size, 0) + backward.copies * each.get(size, 0) or -size not in seen:
            continue
        turns = _turns(changes, size)
        if max(turns) > turns[-1]:
            yield size, gradients + (sum(_turns(recording.changes[:start], size)[-1:]) + max(turns)) // size


def _turns(changes: list[int], size: int) -> list[int]:
    """The bytes of storages of a size after each change of them."""
    both = {size, -size}
    return [*accumulate([change for change in changes if change in both])]
