"""The replay of a run whose micro-batches differ in length: the worst of several histories."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from calculator.allocator.capacity import minimum
from calculator.allocator.history import EmptyCache, HistoryResult
from calculator.allocator.history_run import HistoryRun
from calculator.allocator.played_steps import PlayedSteps
from calculator.allocator.segments import SMALL_SEGMENT, whole_pages
from calculator.devices.outcome import ReplayResult
from calculator.estimation.answer import History, SeedHistory
from calculator.estimation.device_replay import DeviceReplay
from calculator.estimation.sample_lengths import SEEDS, sample_lengths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.allocator.alloc_conf import AllocConf
    from calculator.allocator.history import Step
    from calculator.allocator.out_of_memory import DeviceMemory
    from calculator.devices.outcome import ExpandableSegments, Outcome, Verdict
    from calculator.inputs.training import Training

#: The maximum number of steps between two calls of `empty_cache` that are replayed if all lengths are equal. Later
#: steps repeat the same state.
MOST_BETWEEN = 16

#: The precision of the smallest memory, as a fraction of what the longest micro-batch needs.
CLOSE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Histories:
    """The drawn steps of each seed, and the steps in which the run empties its cache."""

    steps: tuple[tuple[Step, ...], ...]
    empty_cache: EmptyCache | None

    @classmethod
    def from_training(cls, training: Training) -> Histories | None:
        """Return the histories of a run, or None if it has none.

        A run has none if every micro-batch has `sequence_length` and nothing empties the cache.
        """
        lengths = sample_lengths(training)
        if lengths is None:
            return None
        constant = len(lengths.pairs) == 1
        empty_cache = _empty_cache(training, constant=constant)
        if constant and empty_cache is None:
            return None
        if constant and empty_cache is not None:
            return cls(steps=(lengths.history(training, 0)[: 2 * empty_cache.steps + 2],), empty_cache=empty_cache)
        return cls(steps=tuple(lengths.history(training, seed) for seed in SEEDS), empty_cache=empty_cache)


def _empty_cache(training: Training, *, constant: bool) -> EmptyCache | None:
    steps = training.torch_empty_cache_steps
    if steps is None:
        return None
    return EmptyCache(
        steps=min(steps, MOST_BETWEEN) if constant else steps, after_forward=training.empty_cache_at == "after_forward"
    )


class HistoryReplay(DeviceReplay):
    """The replays of several histories.

    Figures are those of the worst history. `resident` is the state of the longest micro-batch.
    """

    def __init__(self, histories: Histories, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.histories = histories

    def _with_options(self, *args: Any, **options: Any) -> HistoryReplay:
        return HistoryReplay(self.histories, *args, **options)

    @cached_property
    def _history_run(self) -> HistoryRun:
        return HistoryRun(self.resident, self.workspaces)

    @property
    def results(self) -> tuple[HistoryResult, ...]:
        """The replay without a limit, for each seed."""
        return self._replay_once(("histories", self.conf), lambda: tuple(self._replays(self.conf)))

    @property
    def history(self) -> History:
        """The memory that the histories reserve, compared with repetitions of the longest micro-batch."""
        worst = max(range(len(self.results)), key=lambda seed: self.results[seed].peak_reserved_bytes)
        result = self.results[worst]
        return History(
            worst_seed=worst,
            peak_step=result.peak_step,
            constant_reserved_bytes=self._replay_once(("peak", self.conf), super()._peak_reserved),
            reserved_by_step=result.reserved,
            micro_batches=tuple(tuple(batch.length for batch in step) for step in self.histories.steps[worst]),
            seeds=tuple(
                SeedHistory(
                    seed=seed, peak_reserved_bytes=seed_result.peak_reserved_bytes, peak_step=seed_result.peak_step
                )
                for seed, seed_result in enumerate(self.results)
            ),
        )

    @property
    def peak_reserved_bytes(self) -> int:
        """The bytes that the worst history reserves on an unlimited device."""
        return max(result.peak_reserved_bytes for result in self.results)

    def outcome(self, usable_bytes: int) -> Outcome:
        """Return the outcome of the worst history on a device."""
        return replace(super().outcome(usable_bytes), has_history=True)

    def _replay_result(self, conf: AllocConf, usable_bytes: int) -> ReplayResult:
        return self._replay_once(("result", conf, usable_bytes), lambda: self._worst_result(conf, usable_bytes))

    def _worst_result(self, conf: AllocConf, usable_bytes: int) -> ReplayResult:
        """Return the first history that runs out of memory, or else the one with the most retries."""
        results = []
        for result in self._replays(conf, self._device(usable_bytes - self.context_bytes)):
            results.append(
                ReplayResult(
                    retries=sum(result.retries),
                    retries_per_step=max(result.retries[1:], default=0),
                    out_of_memory=result.out_of_memory,
                )
            )
            if result.out_of_memory is not None:
                return results[-1]
        return max(results, key=lambda result: result.retries)

    def _replays(self, conf: AllocConf, device: DeviceMemory | None = None) -> Iterator[HistoryResult]:
        """Replay the history of each seed, without a limit or on a device."""
        played = PlayedSteps()
        for steps in self.histories.steps:
            yield self._history_run.replay(
                steps, empty_cache=self.histories.empty_cache, device=device, conf=conf, played=played
            )

    def _minimum(self, conf: AllocConf) -> int:
        return self._replay_once(("minimum", conf), lambda: self._smallest_capacity(conf)) + self.context_bytes

    def _smallest_capacity(self, conf: AllocConf) -> int:
        """Return a capacity on which every history runs, close to the smallest one.

        The search starts at what the longest micro-batch needs when it is repeated. The capacity is raised until all
        histories run, then bisected once.
        """
        most = whole_pages(max(result.peak_reserved_bytes for result in self.results))
        least = minimum(self._run, self.live_bytes, self._device, conf)
        step = whole_pages(least // CLOSE)
        fails, runs, gap = least - SMALL_SEGMENT, least, step
        while runs < most and not self._all_run(conf, runs):
            fails, runs, gap = runs, min(runs + gap, most), 2 * gap
        while runs - fails > step:
            middle = whole_pages((runs + fails) // 2)
            fails, runs = (fails, middle) if self._all_run(conf, middle) else (middle, runs)
        return runs

    def _all_run(self, conf: AllocConf, capacity: int) -> bool:
        return self._replay_result(conf, capacity + self.context_bytes).out_of_memory is None

    def _expandable(self, verdict: Verdict, usable_bytes: int) -> ExpandableSegments | None:  # noqa: ARG002  as its base
        """Return None. device.alloc_conf requests expandable segments, whose histories take twice as long."""
        return None


def replay_of(histories: Histories | None, *args: Any, **options: Any) -> DeviceReplay:
    """Return the replay of a run, or of its histories if it has any.

    The other arguments are those of `DeviceReplay`.
    """
    return DeviceReplay(*args, **options) if histories is None else HistoryReplay(histories, *args, **options)
