"""An upper bound on what is alive in the passes of a first layer that is not interpreted (see `first_layer`).

In its forward pass, less is alive than in the forward pass of the interpreted layer, which comes later. Its backward
pass comes last, when all other layers have left their gradients; besides these, at most as much is alive as in the
interpreted backward pass.
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


def is_below_peak(recording: Recording, remaining: Counter[Allocation]) -> bool:
    """Whether at most as many bytes are alive in its backward pass as elsewhere; each layer leaves `remaining`.

    It is compared with the layer whose backward pass comes first, and then with the peak of the whole backward pass.
    """
    backward, curve = recording.windows[1], recording.curve
    gradients = (backward.copies + 1) * sum([kind[4] * count for kind, count in remaining.items()])
    cached = sum([kind[4] for _, _, kind in recording.dropped])
    if gradients <= curve.growth[2] - cached + backward.copies * (curve.growth[0] - cached):
        return True
    peak = curve.peak(recording.tape.position("backward"), recording.tape.position("end"))
    return max(curve.without_copies(backward.start, backward.end)) + gradients <= peak.bytes


def counts(recording: Recording) -> Iterator[tuple[int, int]]:
    """Sizes of which its backward pass may have more storages alive than any other, with the largest possible number.

    Only gradients accumulate over the layers. A size is left out if the layer whose backward pass comes first has at
    least as many storages of it, or if the number is largest at the end of the step, with all gradients.
    """
    backward, kept, each = recording.windows[1], recording.sizes[2], recording.sizes[0]
    start, end = backward.start, recording.tape.position("end")
    changes = recording.changes[start:end]
    seen = set(changes)
    for size, count in by_size(recording.remaining).items():
        gradients = (backward.copies + 1) * count
        if gradients <= kept.get(size, 0) + backward.copies * each.get(size, 0) or -size not in seen:
            continue
        alive = _bytes_of_size(changes, size)
        if max(alive) > alive[-1]:
            before = sum(_bytes_of_size(recording.changes[:start], size)[-1:])
            yield size, gradients + (before + max(alive)) // size


def _bytes_of_size(changes: list[int], size: int) -> list[int]:
    """The bytes in storages of one size after each change to them."""
    both = {size, -size}
    return [*accumulate([change for change in changes if change in both])]
