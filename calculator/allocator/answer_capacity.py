"""An answer of `generate` on devices of limited memory: whether it ends, and with how many retries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.allocator.alloc_conf import DEFAULT, AllocConf
from calculator.allocator.answer_replay import Answer, AnswerReplay, AnswerRun
from calculator.allocator.capacity import capped
from calculator.allocator.loading import UNTOUCHED
from calculator.allocator.out_of_memory import OutOfMemoryError
from calculator.allocator.segments import BLOCK, whole_pages
from calculator.devices.outcome import OutOfMemory

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.allocator.capacity import CappedReplay
    from calculator.allocator.out_of_memory import DeviceMemory
    from calculator.devices.outcome import ReplayPhase

#: The settings with which answers are replayed, in addition to the default ones.
EXPANDABLE = AllocConf(expandable_segments=True)


class CappedAnswers:
    """Replays of an answer on devices of several capacities, as `capacity.CappedReplays`."""

    def __init__(self, answer: Answer, conf: AllocConf = DEFAULT) -> None:
        self._answer = answer
        self._run = AnswerRun(answer, expandable=conf == EXPANDABLE)
        self._peak: int | None = None
        #: What the answer is on a device that refuses nothing, after the load and before each pass that adds a segment.
        self._states: list[AnswerReplay] = []

    @property
    def peak_reserved_bytes(self) -> int:
        """What it reserves on a device that refuses nothing."""
        self.share()
        assert self._peak is not None
        return self._peak

    def share(self) -> None:
        """Replay it on a device that refuses nothing."""
        if self._peak is not None:
            return
        run = AnswerReplay(self._run)
        run.load()
        self._states.append(run.saved())
        while run.passes < self._answer.passes:
            state = run.saved()
            run.advance()
            if run.allocator.reserved > state.allocator.reserved:
                self._states.append(state)
        self._peak = run.allocator.reserved * BLOCK

    def at_ease(self, device_of: Callable[[int], DeviceMemory]) -> int:  # noqa: ARG002  as its like
        """What it needs on a device that refuses nothing, in whole pages."""
        return whole_pages(max(self.peak_reserved_bytes, self._answer.loading.warmup))

    def missing(self, device: DeviceMemory) -> int:
        """By how much the device is too small for the load to request all that it requests on a larger one."""
        return max(0, -self._spare(device))

    def within(self, device: DeviceMemory) -> CappedReplay:
        """The replay on a device."""
        run = self._on(device)
        retries: list[int] = []
        failure = None
        try:
            if not run.loaded:
                run.load()
            while run.passes < self._answer.passes:
                before = run.allocator.retries
                run.advance()
                retries.append(run.allocator.retries - before)
        except OutOfMemoryError as error:
            failure = _event(run, error, device)
        return capped(device, run.allocator, self._spare(device), retries=retries, steady=retries, failure=failure)

    def _on(self, device: DeviceMemory) -> AnswerReplay:
        """An answer that begins on a device, or continues from the last state that it shares with a larger one."""
        states = [state for state in self._states if state.allocator.reserved * BLOCK <= device.capacity]
        run = states[-1].saved() if states and self._spare(device) >= 0 else AnswerReplay(self._run)
        run.allocator.on(device.capacity, device.total)
        run.total = device.total
        return run

    def _spare(self, device: DeviceMemory) -> int:
        """By how much the device could be smaller before the load requests something else."""
        return int(device.total - UNTOUCHED) - self._answer.loading.warmup


def _event(run: AnswerReplay, error: OutOfMemoryError, device: DeviceMemory) -> OutOfMemory:
    phase: ReplayPhase = "load" if not run.loaded else "decode" if run.passes else "prefill"
    return OutOfMemory(
        step=run.passes + run.loaded,
        phase=phase,
        tensor=error.tensor,
        requested_bytes=error.requested,
        message=error.message(device),
    )
