"""A run whose micro-batches differ in length, replayed on its device: the worst of several histories."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from calculator.allocator.capacity import minimum
from calculator.allocator.history import EmptyCache, HistoryResult
from calculator.allocator.history_run import HistoryRun
from calculator.allocator.segments import SMALL_SEGMENT, whole_pages
from calculator.devices.outcome import Course
from calculator.estimation.answer import History, SeedHistory
from calculator.estimation.device_replay import DeviceReplay
from calculator.estimation.sample_lengths import SEEDS, sample_lengths

if TYPE_CHECKING:
    from calculator.allocator.alloc_conf import AllocConf
    from calculator.allocator.history import Step
    from calculator.devices.outcome import ExpandableSegments, Outcome, Verdict
    from calculator.inputs.training import Training

#: The most steps between two calls of `empty_cache` where all lengths are equal; later steps repeat the same state.
MOST_BETWEEN = 16

#: How close the smallest memory is found, as a part of the longest micro-batch's own.
CLOSE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Histories:
    """The drawn steps of each seed, and when the run empties its cache."""

    steps: tuple[tuple[Step, ...], ...]
    empty_cache: EmptyCache | None

    @classmethod
    def of(cls, training: Training) -> Histories | None:
        """The histories of a run; None where every micro-batch has `sequence_length`, and nothing empties the cache."""
        lengths = sample_lengths(training)
        if lengths is None:
            return None
        constant = len(lengths.pairs) == 1
        emptied = _empty_cache(training, constant=constant)
        if constant and emptied is None:
            return None
        if constant and emptied is not None:
            return cls(steps=(lengths.history(training, 0)[: 2 * emptied.steps + 2],), empty_cache=emptied)
        return cls(steps=tuple(lengths.history(training, seed) for seed in SEEDS), empty_cache=emptied)


def _empty_cache(training: Training, *, constant: bool) -> EmptyCache | None:
    steps = training.torch_empty_cache_steps
    if steps is None:
        return None
    return EmptyCache(
        steps=min(steps, MOST_BETWEEN) if constant else steps, after_forward=training.empty_cache_at == "after_forward"
    )


class HistoryReplay(DeviceReplay):
    """The replays of several histories. Figures are those of the worst; `resident` is of the longest micro-batch."""

    def __init__(self, histories: Histories, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.histories = histories

    def _like(self, *args: Any, **options: Any) -> HistoryReplay:
        return HistoryReplay(self.histories, *args, **options)

    @cached_property
    def _history_run(self) -> HistoryRun:
        return HistoryRun(self.resident, self.workspaces)

    @property
    def results(self) -> tuple[HistoryResult, ...]:
        """Each seed's replay without a limit."""
        return self._once(
            ("histories", self.conf),
            lambda: tuple(
                self._history_run.replay(steps, empty_cache=self.histories.empty_cache, conf=self.conf)
                for steps in self.histories.steps
            ),
        )

    @property
    def history(self) -> History:
        """What the histories add to the longest micro-batch, repeated."""
        worst = max(range(len(self.results)), key=lambda seed: self.results[seed].peak_reserved_bytes)
        result = self.results[worst]
        return History(
            worst_seed=worst,
            peak_step=result.peak_step,
            constant_reserved_bytes=self._once(("peak", self.conf), super()._peak_reserved),
            reserved_by_step=result.reserved,
            micro_batches=tuple(tuple(batch.length for batch in step) for step in self.histories.steps[worst]),
            seeds=tuple(
                SeedHistory(seed=seed, peak_reserved_bytes=each.peak_reserved_bytes, peak_step=each.peak_step)
                for seed, each in enumerate(self.results)
            ),
        )

    @property
    def peak_reserved_bytes(self) -> int:
        """What the worst history reserves on a device that never fills."""
        return max(result.peak_reserved_bytes for result in self.results)

    def outcome(self, usable_bytes: int) -> Outcome:
        """What the worst history does on a device."""
        return replace(super().outcome(usable_bytes), drawn=True)

    def _course(self, conf: AllocConf, usable_bytes: int) -> Course:
        return self._once(("course", conf, usable_bytes), lambda: self._worst(conf, usable_bytes))

    def _worst(self, conf: AllocConf, usable_bytes: int) -> Course:
        """The first history that ends out of memory, or else the one with the most retries."""
        courses = []
        for steps in self.histories.steps:
            device = self._device(usable_bytes - self.context_bytes)
            result = self._history_run.replay(steps, empty_cache=self.histories.empty_cache, device=device, conf=conf)
            courses.append(
                Course(
                    retries=sum(result.retries),
                    retries_per_step=max(result.retries[1:], default=0),
                    out_of_memory=result.out_of_memory,
                )
            )
            if result.out_of_memory is not None:
                return courses[-1]
        return max(courses, key=lambda course: course.retries)

    def _minimum(self, conf: AllocConf) -> int:
        return self._once(("minimum", conf), lambda: self._least(conf)) + self.context_bytes

    def _least(self, conf: AllocConf) -> int:
        """A capacity on which every history runs, close to the least.

        No history is tried on less than the longest micro-batch needs when it is repeated. From there the capacity is
        raised until all of them run, and bisected once more.
        """
        most = whole_pages(max(result.peak_reserved_bytes for result in self.results))
        least = minimum(self._run, self.live_bytes, self._device, conf).bytes
        step = whole_pages(least // CLOSE)
        fails, runs, gap = least - SMALL_SEGMENT, least, step
        while runs < most and not self._runs(conf, runs):
            fails, runs, gap = runs, min(runs + gap, most), 2 * gap
        while runs - fails > step:
            middle = whole_pages((runs + fails) // 2)
            fails, runs = (fails, middle) if self._runs(conf, middle) else (middle, runs)
        return runs

    def _runs(self, conf: AllocConf, capacity: int) -> bool:
        return self._course(conf, capacity + self.context_bytes).out_of_memory is None

    def _expandable(self, verdict: Verdict, usable_bytes: int) -> ExpandableSegments | None:  # noqa: ARG002  as its base
        """None: device.alloc_conf requests expandable segments, whose histories take twice as long."""
        return None


def replay_of(histories: Histories | None, *args: Any, **options: Any) -> DeviceReplay:
    """The replay of a run, of its histories if it has some; the other arguments are those of `DeviceReplay`."""
    return DeviceReplay(*args, **options) if histories is None else HistoryReplay(histories, *args, **options)
