"""A call of `generate`, replayed on devices of limited memory: whether it finishes, and with how many retries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.allocator.alloc_conf import DEFAULT, AllocConf
from calculator.allocator.capacity import capped
from calculator.allocator.generate_replay import GenerateCall, GenerateReplay, GenerateRun
from calculator.allocator.loading import UNTOUCHED
from calculator.allocator.out_of_memory import OutOfMemoryError
from calculator.allocator.segments import BLOCK, whole_pages
from calculator.allocator.shared_stages import is_same_on
from calculator.devices.outcome import OutOfMemory

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.allocator.capacity import CappedReplay
    from calculator.allocator.out_of_memory import DeviceMemory
    from calculator.devices.outcome import ReplayPhase

#: The allocator settings with which a call of `generate` can be replayed, in addition to the default ones.
EXPANDABLE = AllocConf(expandable_segments=True)


class CappedGenerateReplays:
    """Replays of a call of `generate` on devices of several capacities, as `CappedReplays` of a training run."""

    def __init__(self, call: GenerateCall, conf: AllocConf = DEFAULT) -> None:
        self._call = call
        self._run = GenerateRun(call, expandable=conf == EXPANDABLE)
        self._peak: int | None = None
        #: States of the replay on an unlimited device: after the load, and before each pass that adds a segment.
        self._states: list[GenerateReplay] = []

    @property
    def peak_reserved_bytes(self) -> int:
        """The bytes that the call reserves on an unlimited device."""
        self.share()
        assert self._peak is not None
        return self._peak

    def share(self) -> None:
        """Replay the call on an unlimited device, and store states from which other replays continue."""
        if self._peak is not None:
            return
        run = GenerateReplay(self._run)
        run.load()
        self._states.append(run.saved())
        while run.passes < self._call.passes:
            state = run.saved()
            run.advance()
            if run.allocator.reserved > state.allocator.reserved:
                self._states.append(state)
        self._peak = run.allocator.reserved * BLOCK

    def unlimited_bytes(self, device_of: Callable[[int], DeviceMemory]) -> int:  # noqa: ARG002  the interface of CappedReplays
        """Return the bytes that the call needs on an unlimited device, in whole pages."""
        return whole_pages(max(self.peak_reserved_bytes, self._call.loading.warmup))

    def missing_bytes(self, device: DeviceMemory) -> int:
        """Return by how many bytes the device is too small for the full warmup of the load."""
        return max(0, -self._spare(device))

    def within(self, device: DeviceMemory) -> CappedReplay:
        """Replay the call on a device."""
        run = self._replay_on(device)
        retries: list[int] = []
        failure = None
        try:
            if not run.loaded:
                run.load()
            while run.passes < self._call.passes:
                before = run.allocator.retries
                run.advance()
                retries.append(run.allocator.retries - before)
        except OutOfMemoryError as error:
            failure = _event(run, error, device)
        return capped(device, run.allocator, self._spare(device), steady=retries, failure=failure)

    def _replay_on(self, device: DeviceMemory) -> GenerateReplay:
        """Return a replay on a device. It starts anew, or continues from the last state shared with a larger device."""
        states = [state for state in self._states if is_same_on(device, state.allocator)]
        run = states[-1].saved() if states and self._spare(device) >= 0 else GenerateReplay(self._run)
        run.allocator.set_capacity(device.capacity, device.total)
        run.total = device.total
        return run

    def _spare(self, device: DeviceMemory) -> int:
        """Return by how many bytes the device could shrink before the load requests something else."""
        return int(device.total - UNTOUCHED) - self._call.loading.warmup


def _event(run: GenerateReplay, error: OutOfMemoryError, device: DeviceMemory) -> OutOfMemory:
    phase: ReplayPhase = "load" if not run.loaded else "decode" if run.passes else "prefill"
    return OutOfMemory(
        step=run.passes + run.loaded,
        phase=phase,
        tensor=error.tensor,
        requested_bytes=error.requested,
        message=error.message(device),
    )
