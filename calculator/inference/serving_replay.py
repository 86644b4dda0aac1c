"""An answer of `generate` replayed on its device: what it reserves, and the verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.allocator.alloc_conf import DEFAULT, AllocConf
from calculator.allocator.generate_capacity import EXPANDABLE, CappedGenerateReplays
from calculator.allocator.generate_replay import GenerateCall
from calculator.allocator.loading import Loading, loading_options
from calculator.allocator.segments import SMALL_SEGMENT, whole_pages
from calculator.devices.outcome import ReplayResult
from calculator.estimation.device_replay import DeviceReplay
from calculator.training_step.generate_trace import GenerateTraces

if TYPE_CHECKING:
    from calculator.devices.outcome import Outcome
    from calculator.resident.tensor import ResidentTensor
    from calculator.training_step.resident_state import ResidentState

#: The maximum number of allocations and frees of an answer that is replayed.
MOST_EVENTS = 1_000_000
#: The precision of the smallest memory, as a fraction of the live tensors.
CLOSE = 128


class ServingReplay(DeviceReplay):
    """The replay of an answer with some tokens. `state` are the resident tensors of all tasks."""

    def __init__(
        self,
        resident: ResidentState,
        state: tuple[ResidentTensor, ...],
        workspace: int,
        *,
        tokens: int,
        live_bytes: int,
        context_bytes: int,
        conf: AllocConf,
    ) -> None:
        super().__init__(resident, (workspace, 0), live_bytes=live_bytes, context_bytes=context_bytes, conf=conf)
        loading = Loading(state, resident.prepared.training, loading_options(resident.prepared))
        self._call = GenerateCall(loading, workspace, GenerateTraces(resident.prepared), tokens)
        self._replays: dict[AllocConf, CappedGenerateReplays] = {}

    @property
    def refusal(self) -> str | None:
        """Why the answer is not replayed. None if it is."""
        if self.conf not in {DEFAULT, EXPANDABLE}:
            return "Answers are replayed with the allocator's default settings, or with expandable_segments:True."
        passes = self._call.passes
        events = len(self._call.traces.sized(min(1, passes - 1))[0].events) * passes
        if events > MOST_EVENTS:
            return (
                f"The answer's {passes:,} passes are {events:,} allocations and frees; {MOST_EVENTS:,} can be replayed."
                f" With {MOST_EVENTS // (events // passes):,} new tokens or fewer, they are replayed."
            )
        return None

    def outcome(self, usable_bytes: int) -> Outcome:
        """Return the outcome of the answer on a device."""
        return replace(super().outcome(usable_bytes), generates=True)

    def _capped(self, conf: AllocConf) -> CappedGenerateReplays:
        if conf not in self._replays:
            self._replays[conf] = CappedGenerateReplays(self._call, conf)
        return self._replays[conf]

    def _peak_reserved(self) -> int:
        return self._capped(self.conf).peak_reserved_bytes

    def _warmup(self) -> int:
        return self._call.loading.warmup

    def _replay_result(self, conf: AllocConf, usable_bytes: int) -> ReplayResult:
        device = self._device(usable_bytes - self.context_bytes)
        result = self._replay_once(("result", conf, device), lambda: self._capped(conf).within(device))
        return ReplayResult(
            retries=result.retries,
            retries_per_step=result.retries_per_step,
            out_of_memory=result.out_of_memory,
        )

    def _minimum(self, conf: AllocConf) -> int:
        return self._replay_once(("minimum", conf), lambda: self._smallest_capacity(conf)) + self.context_bytes

    def _smallest_capacity(self, conf: AllocConf) -> int:
        """Return a capacity on which the answer runs, close to the smallest one.

        It is bisected from the live tensors on.
        """
        fails = whole_pages(self.live_bytes) - SMALL_SEGMENT
        runs, step = self._capped(conf).unlimited_bytes(self._device), whole_pages(self.live_bytes // CLOSE)
        while self._runs_out_of_memory(conf, runs):
            fails, runs = runs, runs + step
        while runs - fails > step:
            middle = whole_pages((runs + fails) // 2)
            fails, runs = (middle, runs) if self._runs_out_of_memory(conf, middle) else (fails, middle)
        return runs

    def _runs_out_of_memory(self, conf: AllocConf, capacity: int) -> bool:
        return self._replay_result(conf, capacity + self.context_bytes).out_of_memory is not None
