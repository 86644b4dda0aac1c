"""The first stages of a run, which are the same on all devices that are large enough for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.allocator.flat_replay import FlatReplay
from calculator.allocator.replay import MAX_STEPS
from calculator.allocator.segments import BLOCK

if TYPE_CHECKING:
    from calculator.allocator.caching_allocator import CachingAllocator
    from calculator.allocator.flat_device import FlatDevice
    from calculator.allocator.flat_expandable import FlatExpandable
    from calculator.allocator.flat_replay import FlatRun
    from calculator.allocator.out_of_memory import DeviceMemory
    from calculator.allocator.stage_cache import StageCache


class SharedStages:
    """A run on an unlimited device, replayed only as far as a capacity needs it.

    The replay ends when a step adds no segment, or at the peak if that is known.
    """

    __slots__ = ("_before", "_has_ended", "_peak", "_run", "_states", "_steps")

    def __init__(self, run: FlatRun, peak_reserved_bytes: int | None, stages: StageCache | None) -> None:
        self._peak = peak_reserved_bytes
        self._run = FlatReplay(run)
        self._run.load()
        self._run.stage_cache = stages
        #: The states of the run after the load, and before each stage that adds a segment.
        self._states = [self._run.saved()]
        #: The layouts of earlier steps, and what was reserved at the end of the last step.
        self._steps = self._before = 0
        self._has_ended = False

    @property
    def peak_reserved_bytes(self) -> int:
        """The bytes that the run reserves on such a device."""
        if self._peak is None:
            self._advance(None)
            self._peak = self._run.allocator.max_reserved * BLOCK
        return self._peak

    @property
    def total_from(self) -> int:
        """The memory of devices from which on the run that was replayed is certainly the same."""
        return total_from(self._run.allocator)

    def before(self, device: DeviceMemory) -> FlatReplay | None:
        """Return a replay in the last state that is the same on a device and on all larger ones.

        Return None if the load already differs.
        """
        self._advance(device.capacity)
        states = [state for state in self._states if is_same_on(device, state.allocator)]
        return states[-1].saved() if states else None

    def _advance(self, capacity: int | None) -> None:
        """Run further stages until one reserves more than a capacity."""
        run = self._run
        while (capacity is None or run.allocator.reserved * BLOCK <= capacity) and self._goes_on():
            state = run.saved()
            run.advance()
            if run.allocator.reserved > state.allocator.reserved:
                self._states.append(state)

    def _goes_on(self) -> bool:
        run, reserved = self._run, self._run.allocator.reserved
        if run.steps > self._steps:
            self._has_ended = bool(self._steps and reserved == self._before) or run.steps == MAX_STEPS
            self._before, self._steps = reserved, run.steps
        return not self._has_ended and reserved * BLOCK != self._peak


def total_from(allocator: CachingAllocator | FlatDevice | FlatExpandable) -> int:
    """Return the memory of devices from which on each request so far is served from the same block, in bytes."""
    return max((least for least, _ in allocator.same_totals), default=0)


def is_same_on(device: DeviceMemory, unlimited: FlatDevice | FlatExpandable) -> bool:
    """Return whether a device serves all requests as an unlimited one did so far."""
    return unlimited.max_reserved * BLOCK <= device.capacity and total_from(unlimited) <= device.total
