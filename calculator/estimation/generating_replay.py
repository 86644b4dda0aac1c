"""The replay of a run whose steps begin with generation.

Its steps are replayed, and generation follows the rule.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calculator.allocator.segments import whole_pages
from calculator.estimation.device_replay import DeviceReplay

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.allocator.alloc_conf import AllocConf
    from calculator.devices.outcome import ReplayResult

    #: Returns the bytes that generation reserves by the rule, including the workspaces. If they are at most the bytes
    #: that it is given, what it returns may be less, which takes less time.
    Reserved = Callable[[int], int]


class GeneratingReplay(DeviceReplay):
    """The replay of a run that generates.

    `live_bytes` are those of the step or of generation, whichever are more.
    """

    def __init__(self, generation: Reserved, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.generation = generation

    @classmethod
    def from_step(cls, replay: DeviceReplay, generation: Reserved) -> GeneratingReplay:
        """Return the replay of a step with generation before it."""
        return cls(
            generation,
            replay.resident,
            replay.workspaces,
            live_bytes=replay.live_bytes,
            context_bytes=replay.context_bytes,
            conf=replay.conf,
            cached=replay.cached,
        )

    def _with_options(self, resident: Any, workspaces: tuple[int, int], **options: Any) -> GeneratingReplay:
        generation, added_workspaces = self.generation, sum(workspaces) - sum(self.workspaces)
        return GeneratingReplay(
            lambda limit: generation(limit - added_workspaces) + added_workspaces, resident, workspaces, **options
        )

    def _peak_reserved(self) -> int:
        step_bytes = super()._peak_reserved()
        return max(step_bytes, self.generation(step_bytes))

    def _replay_result(self, conf: AllocConf, usable_bytes: int) -> ReplayResult:
        """Return the result of the run.

        If generation reserves more than the device has, cached blocks are freed in every step.
        """
        result, capacity = super()._replay_result(conf, usable_bytes), usable_bytes - self.context_bytes
        if self.generation(capacity) <= capacity:
            return result
        return replace(result, retries=max(1, result.retries), retries_per_step=max(1, result.retries_per_step))

    def _minimum(self, conf: AllocConf) -> int:
        return max(super()._minimum(conf), whole_pages(self.live_bytes) + self.context_bytes)
