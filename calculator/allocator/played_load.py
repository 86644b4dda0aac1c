"""The load of a model in the flat pools of a fast replay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.allocator.chunks import SMALL
from calculator.allocator.equal_layers import play_equal_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.allocator.equal_layers import EqualLayers
    from calculator.allocator.flat_pool import FlatPool, Places


def parts_by_pool(parts: Sequence[EqualLayers], sizes: Sequence[int]) -> tuple[list[EqualLayers], list[EqualLayers]]:
    """Return the parts of a load with the events of the small pool, and with those of the large one."""
    # The two events of a row, `n` and `~n`, are indices of the same element.
    by_event = [*sizes, *reversed(sizes)]
    return (
        [part._replace(events=[event for event in part.events if by_event[event] <= SMALL]) for part in parts],
        [part._replace(events=[event for event in part.events if by_event[event] > SMALL]) for part in parts],
    )


def load(
    pool: FlatPool, parts: Sequence[EqualLayers], sizes: Sequence[int], places: Places, parts_before: int | None
) -> int:
    """Play the parts of a load, and empty the cache after the first `parts_before` ones. Most of it is not freed.

    Return what is reserved before the cache is emptied, or 0.
    """
    before = 0
    last = max((n for n, part in enumerate(parts) if min(part.events, default=0) < 0), default=-1)
    freed = [~event for part in parts if part.times == 1 for event in part.events if event < 0]
    for n, part in enumerate(parts):
        if n == parts_before:
            before = pool.reserved
            pool.release()
        if n > last:
            pool.allocate([*map(sizes.__getitem__, part.events)], part.times)
        elif part.times > 1:
            play_equal_layers(pool, part, sizes, places, freed)
        else:
            frees = [at for at, event in enumerate(part.events) if event < 0] if n == last else []
            end = frees[-1] + 1 if frees else len(part.events)
            pool.play(part.events[:end], sizes, places)
            pool.allocate([*map(sizes.__getitem__, part.events[end:])])
    return before
