"""A run replayed on its device, for the verdict and for what an answer says about the device's limit."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

from calculator.allocator.alloc_conf import DEFAULT, AllocConf
from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.capacity import minimum, replay_within
from calculator.allocator.fast_replay import peak_reserved
from calculator.allocator.loading import UNTOUCHED
from calculator.allocator.out_of_memory import DeviceMemory
from calculator.allocator.replay import Replay, full_peak_reserved
from calculator.allocator.sharded_loading import loading_of
from calculator.common.deferred import Deferred
from calculator.devices.outcome import ExpandableSegments, Outcome, ReplayResult, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from calculator.allocator.loading import Loading
    from calculator.training_step.resident_state import ResidentState


T = TypeVar("T")


class DeviceReplay:
    """A run, and the allocator settings with which it is replayed.

    Attributes:
        resident: The run.
        workspaces: The bytes of the matrix library's workspaces, for the forward pass's thread and for autograd's.
        live_bytes: The live tensors at the peak of the steady state, workspaces included.
        context_bytes: What the process uses outside the allocator.
        conf: The settings of PYTORCH_CUDA_ALLOC_CONF.
        cached: A cache of results of replays of the same run. Replays add to it.
    """

    def __init__(
        self,
        resident: ResidentState,
        workspaces: tuple[int, int],
        *,
        live_bytes: int,
        context_bytes: int,
        conf: AllocConf = DEFAULT,
        cached: dict[Hashable, Any] | None = None,
    ) -> None:
        self.resident = resident
        self.workspaces = workspaces
        self.live_bytes = live_bytes
        self.context_bytes = context_bytes
        self.conf = conf
        self.cached: dict[Hashable, Any] = {} if cached is None else cached

    def with_workspaces(self, workspaces: tuple[int, int]) -> DeviceReplay:
        """Return the same run on a GPU whose matrix library has other workspaces."""
        if workspaces == self.workspaces:
            return self
        return self._with_options(
            self.resident,
            workspaces,
            live_bytes=self.live_bytes - sum(self.workspaces) + sum(workspaces),
            context_bytes=self.context_bytes,
            conf=self.conf,
            cached=self._replay_once(("workspaces", workspaces), dict),
        )

    def _with_options(self, *args: Any, **options: Any) -> DeviceReplay:
        return DeviceReplay(*args, **options)

    @property
    def peak_reserved_bytes(self) -> int:
        """The bytes that the run reserves on an unlimited device."""
        return self._replay_once(("peak", self.conf), self._peak_reserved)

    def _peak_reserved(self) -> int:
        if self.conf == DEFAULT:
            return peak_reserved(self.resident, self.workspaces, self._loading)
        return full_peak_reserved(self.resident, self.workspaces, self.conf)

    def _replay_once(self, key: Hashable, replayed: Callable[[], T]) -> T:
        if key not in self.cached:
            self.cached[key] = replayed()
        result: T = self.cached[key]
        return result

    def outcome(self, usable_bytes: int) -> Outcome:
        """Return the outcome of the run on a device.

        Only what the verdict depends on is replayed at once.
        """
        verdict = self._verdict_without_replay(usable_bytes)
        if verdict is Verdict.FITS:
            result = Deferred(lambda: ReplayResult(retries=0, retries_per_step=0, out_of_memory=None))
        else:
            result = Deferred(partial(self._replay_result, self.conf, usable_bytes))
        verdict = verdict or result().verdict
        return Outcome(
            verdict=verdict,
            result=result,
            minimum_bytes=Deferred(partial(self._minimum, self.conf)),
            with_expandable_segments=Deferred(partial(self._expandable, verdict, usable_bytes)),
            tensors_fit=self.live_bytes <= usable_bytes - self.context_bytes,
        )

    def _verdict_without_replay(self, usable_bytes: int) -> Verdict | None:
        """Return the verdict if it does not depend on a replay on this device, else None."""
        capacity = usable_bytes - self.context_bytes
        if self.live_bytes > capacity:
            return Verdict.DOES_NOT_FIT
        if self.conf != DEFAULT or self.peak_reserved_bytes > capacity:
            return None
        # The warmup allocates as much as on any device if it leaves 1.2 GiB of this one untouched.
        room = usable_bytes - UNTOUCHED
        warmup_fits = self.peak_reserved_bytes <= room or self._warmup() <= room
        return Verdict.FITS if warmup_fits else None

    def _warmup(self) -> int:
        """Return the bytes that the load allocates and frees first."""
        return self._loading.warmup

    @cached_property
    def _loading(self) -> Loading:
        return loading_of(self.resident)

    @cached_property
    def _run(self) -> Replay:
        return Replay(CachingAllocator(), self.resident, self.workspaces, self._loading)

    def _device(self, capacity: int) -> DeviceMemory:
        return DeviceMemory(capacity=capacity, total=capacity + self.context_bytes, context=self.context_bytes)

    def _replay_result(self, conf: AllocConf, usable_bytes: int) -> ReplayResult:
        device = self._device(usable_bytes - self.context_bytes)
        result = self._replay_once(("result", conf, device), lambda: replay_within(self._run, device, conf))
        return ReplayResult(
            retries=result.retries,
            retries_per_step=result.retries_per_step,
            out_of_memory=result.out_of_memory,
        )

    def _minimum(self, conf: AllocConf) -> int:
        peak = self.peak_reserved_bytes if conf == DEFAULT == self.conf else None
        capacity = self._replay_once(
            ("minimum", conf), lambda: minimum(self._run, self.live_bytes, self._device, conf, peak)
        )
        return capacity + self.context_bytes

    def _expandable(self, verdict: Verdict, usable_bytes: int) -> ExpandableSegments | None:
        if verdict is Verdict.FITS or self.conf.expandable_segments:
            return None
        conf = replace(self.conf, expandable_segments=True)
        result = self._replay_result(conf, usable_bytes)
        return ExpandableSegments(
            verdict=result.verdict,
            retries_per_step=result.retries_per_step,
            minimum_bytes=self._minimum(conf),
        )
