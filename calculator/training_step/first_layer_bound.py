"""An upper bound on the bytes alive in the passes of a first layer that is not interpreted (see `first_layer`).

In its forward pass, fewer bytes are alive than in the later forward pass of the interpreted layer. Its backward pass
comes last, when all other layers have left their gradients. In addition to these, at most as many bytes are alive as in
the interpreted backward pass.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from calculator.engine.counts_by_size import MAX_SIZES, changes_of_events, groups_of

if TYPE_CHECKING:
    from calculator.engine.copies import Copies, CountChange
    from calculator.engine.recording import Recording


def is_below_peak(recording: Recording) -> bool:
    """Return whether the first layer's backward pass has at most as many bytes alive as the rest of the step.

    It is compared first with the layer whose backward pass comes first, then with the peak of the whole backward pass.
    """
    backward, curve, copies = recording.windows[1], recording.curve, recording.copies
    sizes, size_of = recording.storages.sizes, copies.kinds.size_of
    gradients = (backward.copies + 1) * sum([sizes[size_of[kind]] * count for kind, count in copies.remaining.items()])
    cached = sum([sizes[size_of[kind]] for _, _, kind in copies.dropped])
    if gradients <= curve.growth[2] - cached + backward.copies * (curve.growth[0] - cached):
        return True
    peak = curve.peak(copies.tape.position("backward"), copies.tape.position("end"))
    return max(curve.without_copies(backward.start, backward.end)) + gradients <= peak.bytes


def is_before_peak(recording: Recording) -> bool:
    """Return whether a first layer that is interpreted with a gradient of its input decides no peak.

    Its backward pass comes last. It has fewer bytes alive than the one that is interpreted, which must be no peak then.
    """
    copies, curve = recording.copies, recording.curve
    peak = curve.peak(copies.tape.position("backward"), copies.tape.position("end"))
    return not peak.repeats[1]


def least_counts(copies: Copies) -> list[CountChange]:
    """Return changes to the counts of such a step with which its first layer's backward pass has no storage."""
    backward = copies.windows[1]
    gained = [(size, count) for size, count in copies.sizes[1].items() if count > 0]
    return [
        change for size, count in gained for change in ((backward.start, size, -count), (backward.end, size, count))
    ]


def counts(copies: Copies, equal: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return the sizes of which the first layer may reach the highest count, each with an upper bound on that count.

    Only gradients accumulate over the layers. A size is left out if the layer whose backward pass comes first has at
    least as many storages of it, or if the count is largest at the end of the step, with all gradients. `equal` has the
    first number of each size. A group of equal sizes that occurs again in another run is counted once.
    """
    known = copies.of_first_layer
    if len(known) >= MAX_SIZES:
        known.clear()
    groups, found = groups_of(equal), []
    for first in dict.fromkeys([equal[size] for size in copies.sizes_left]):
        numbers = groups[first]
        if numbers not in known:
            known[numbers] = _count(copies, numbers)
        count = known[numbers]
        if count is not None:
            found.append((first, count))
    return found


def _count(copies: Copies, numbers: tuple[int, ...]) -> int | None:
    """Return an upper bound on the number of storages of some equal sizes, or None if they are left out."""
    backward = copies.windows[1]
    each, kept, left = (
        sum([counts.get(number, 0) for number in numbers])
        for counts in (copies.sizes[0], copies.sizes[2], copies.sizes_left)
    )
    gradients = (backward.copies + 1) * left
    if gradients <= kept + backward.copies * each:
        return None
    changes = changes_of_events(copies, numbers)
    start, end = backward.start, copies.tape.position("end")
    own = [change for at, change in changes if start <= at < end]
    if min(own, default=0) >= 0:
        return None
    before = sum([change for at, change in changes if at < start])
    alive = [*accumulate(own)]
    return gradients + before + max(alive) if max(alive) > alive[-1] else None
