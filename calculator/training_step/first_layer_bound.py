"""An upper bound on the bytes alive in the passes of a first layer that is not interpreted (see `first_layer`).

In its forward pass, fewer bytes are alive than in the later forward pass of the interpreted layer. Its backward pass
comes last, when all other layers have left their gradients. In addition to these, at most as many bytes are alive as in
the interpreted backward pass.
"""

from __future__ import annotations

from operator import invert
from typing import TYPE_CHECKING

from calculator.engine.counts_by_size import MAX_COUNTS, merge_equal_sizes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.engine.copies import Copies, CountChange
    from calculator.engine.kinds import EqualSizes
    from calculator.engine.recording import Recording


def is_below_peak(recording: Recording) -> bool:
    """Return whether the live bytes in the first layer's backward pass are at most those in the rest of the step.

    It is compared first with the layer whose backward pass comes first, then with the peak of the whole backward pass.
    """
    backward, curve, copies = recording.windows[1], recording.curve, recording.copies
    sizes, size_of = recording.storages.sizes, copies.kinds.size_of
    gradients = (backward.copies + 1) * recording.storages.bytes_of(copies.remaining)
    cached = sum([sizes[size_of[kind]] for _, _, kind in copies.dropped])
    if gradients <= curve.growth[2] - cached + backward.copies * (curve.growth[0] - cached):
        return True
    peak = curve.peak(copies.marks["backward"], copies.marks["end"])
    return max(curve.without_copies(backward.start, backward.end)) + gradients <= peak.bytes


def is_before_peak(recording: Recording) -> bool:
    """Return whether a first layer that is interpreted with a gradient of its input decides no peak.

    Its backward pass comes last. It has fewer bytes alive than the one that is interpreted, which must be no peak then.
    """
    copies, curve = recording.copies, recording.curve
    peak = curve.peak(copies.marks["backward"], copies.marks["end"])
    return not peak.repeats[1]


def smallest_counts(copies: Copies) -> list[CountChange]:
    """Return changes to the counts of such a step with which its first layer's backward pass has no storage."""
    backward = copies.windows[1]
    gained = [(size, count) for size, count in copies.sizes[1].items() if count > 0]
    return [
        change for size, count in gained for change in ((backward.start, size, -count), (backward.end, size, count))
    ]


def counts(copies: Copies, equal: EqualSizes) -> list[tuple[int, int]]:
    """Return the sizes of which the first layer may reach the highest count, each with an upper bound on that count.

    Only gradients accumulate over the layers. A size is left out if the layer whose backward pass comes first has at
    least as many storages of it, or if the count is largest at the end of the step, with all gradients. `equal` has the
    first number of each size.
    """
    known = copies.first_layer_counts.get(equal)
    if known is None:
        if len(copies.first_layer_counts) >= MAX_COUNTS:
            copies.first_layer_counts.clear()
        known = copies.first_layer_counts[equal] = [*_counted(copies, equal)]
    return known


def _counted(copies: Copies, equal: EqualSizes) -> Iterator[tuple[int, int]]:
    layers, events = copies.windows[1].copies, copies.kinds.size_events
    layer_sizes, kept = merge_equal_sizes(copies.sizes[0], equal), merge_equal_sizes(copies.sizes[2], equal)
    gradients: dict[int, int] = {}
    alive: dict[int, int] = {}
    for size, count in merge_equal_sizes(copies.sizes_left, equal).items():
        gradients[size] = (layers + 1) * count
        if gradients[size] > kept.get(size, 0) + layers * layer_sizes.get(size, 0):
            alive[size] = 0
    most = dict.fromkeys(alive, -len(events))
    start, numbers = copies.windows[1].start, [number for number, size in enumerate(equal) if size in alive]
    counted = {*numbers, *map(invert, numbers)}
    for event in filter(counted.__contains__, events[start : copies.marks["end"]]):
        size, change = (equal[event], 1) if event >= 0 else (equal[~event], -1)
        alive[size] = count = alive[size] + change
        if count > most[size]:  # noqa: PLR1730  a call of `max` takes longer
            most[size] = count
    for size, count in most.items():
        if count > alive[size]:
            before = sum([1 if event >= 0 else -1 for event in events[:start] if equal[max(event, ~event)] == size])
            yield size, gradients[size] + before + count
