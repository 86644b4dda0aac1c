"""An upper bound on what is alive in the passes of a first layer that is not interpreted (see `first_layer`).

In its forward pass, less is alive than in the forward pass of the interpreted layer, which comes later. Its backward
pass comes last, when all other layers have left their gradients; besides these, at most as much is alive as in the
interpreted backward pass.
"""

from __future__ import annotations

from itertools import accumulate
from operator import invert
from typing import TYPE_CHECKING

from calculator.engine.counts_by_size import MAX_COUNTS, merged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.engine.copies import Copies
    from calculator.engine.recording import Recording


def is_below_peak(recording: Recording) -> bool:
    """Whether at most as many bytes are alive in its backward pass as elsewhere.

    It is compared with the layer whose backward pass comes first, and then with the peak of the whole backward pass.
    """
    backward, curve, copies = recording.windows[1], recording.curve, recording.copies
    sizes, size_of = recording.storages.sizes, copies.kinds.size_of
    gradients = (backward.copies + 1) * sum([sizes[size_of[kind]] * count for kind, count in copies.remaining.items()])
    cached = sum([sizes[size_of[kind]] for _, _, kind in copies.dropped])
    if gradients <= curve.growth[2] - cached + backward.copies * (curve.growth[0] - cached):
        return True
    peak = curve.peak(copies.tape.position("backward"), copies.tape.position("end"))
    return max(curve.without_copies(backward.start, backward.end)) + gradients <= peak.bytes


def counts(copies: Copies, equal: tuple[int, ...]) -> list[tuple[int, int]]:
    """Sizes of which its backward pass may have more storages alive than any other, with the largest possible number.

    Only gradients accumulate over the layers. A size is left out if the layer whose backward pass comes first has at
    least as many storages of it, or if the number is largest at the end of the step, with all gradients. `equal` has
    the first number of each size.
    """
    cache = copies.of_first_layer
    if equal not in cache:
        if len(cache) >= MAX_COUNTS:
            cache.clear()
        cache[equal] = [*_counts(copies, equal)]
    return cache[equal]


def _counts(copies: Copies, equal: Sequence[int]) -> Iterator[tuple[int, int]]:
    backward, events = copies.windows[1], copies.kinds.size_events
    start, end = backward.start, copies.tape.position("end")
    each, _, kept = (merged(sizes, equal) for sizes in copies.sizes[:3])
    seen = set(events[start:end])
    for size, count in merged(copies.kinds.by_size(copies.remaining), equal).items():
        gradients = (backward.copies + 1) * count
        if gradients <= kept.get(size, 0) + backward.copies * each.get(size, 0):
            continue
        allocated = {number for number, first in enumerate(equal) if first == size}
        freed = {*map(invert, allocated)}
        if seen.isdisjoint(freed):
            continue
        before, own = (
            [1 if event >= 0 else -1 for event in filter((allocated | freed).__contains__, part)]
            for part in (events[:start], events[start:end])
        )
        alive = [*accumulate(own)]
        if max(alive) > alive[-1]:
            yield size, gradients + sum(before) + max(alive)
