"""The ledger of a traced step: every storage, and the order in which storages are allocated and freed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.common.names import ComponentName

#: The CUDA caching allocator rounds a request up to a multiple of this many bytes.
#: Source: c10/cuda/CUDACachingAllocator.h, kMinBlockSize.
GRANULE = 512


def rounded(nbytes: int) -> int:
    """Return bytes rounded up as the caching allocator rounds them."""
    return -(-nbytes // GRANULE) * GRANULE


#: The names of the traced phases: of a step, or the passes of `generate`.
P = TypeVar("P", bound=str)

#: The components that exist before the step.
STATIC_COMPONENTS = ("base_weights", "quantization_constants", "adapter_weights", "optimizer_states")


@dataclass(slots=True)
class Storage:
    """One allocation of the step.

    `name` is the name of a parameter or state, if it is one. `module` and `op` are where the storage was allocated:
    the module's path with its layer index, and the operation. `moment` is `static`, `forward`, `backward`,
    `recompute` or `optimizer`. `stream` names the stream that allocated it, empty for the default one.
    """

    number: int
    module: str
    op: str
    moment: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    component: ComponentName
    name: str = ""
    stream: str = ""

    @property
    def bytes(self) -> int:
        """The size, rounded up to 512 bytes."""
        return rounded(self.nbytes)

    @property
    def site(self) -> str:
        """Where it was allocated, as one word: `model.layers.0.mlp.up_proj:aten.mm`."""
        return f"{self.module}:{self.op}"


@dataclass(frozen=True, slots=True)
class Peak:
    """The most bytes alive in a phase, and the index of the event that reached them (-1: before the first event)."""

    bytes: int
    event: int
    op: str


@dataclass(slots=True)
class Ledger(Generic[P]):
    """Storages by number, and events in order: a storage's number at its allocation, its complement at its free.

    `phase_starts` pairs the number of events before each phase with the phase's name.
    """

    storages: list[Storage] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    phase_starts: list[tuple[int, P]] = field(default_factory=list)
    peaks: dict[P, Peak] = field(default_factory=dict)
    live_bytes: int = 0

    def enter(self, phase: P) -> None:
        """Begin a phase or pass; its peak includes what is already alive."""
        self.phase_starts.append((len(self.events), phase))
        self._update_peak(f"start of {phase}")

    def allocate(self, storage: Storage) -> None:
        """Record that a storage was allocated."""
        self.events.append(storage.number)
        self.storages.append(storage)
        self.live_bytes += storage.bytes
        self._update_peak(storage.site)

    def free(self, number: int) -> None:
        """Record that a storage was freed."""
        self.events.append(~number)
        self.live_bytes -= self.storages[number].bytes

    def restart(self, alive: list[Storage]) -> None:
        """Begin again with these storages, numbered again and allocated in this order."""
        self.storages, self.events, self.phase_starts, self.peaks, self.live_bytes = [], [], [], {}, 0
        for number, storage in enumerate(alive):
            storage.number = number
            self.allocate(storage)

    def static(self) -> dict[str, int]:
        """Return bytes of the components that exist before the step."""
        before = [storage for storage in self.storages if storage.moment == "static"]
        return {name: sum(s.bytes for s in before if s.component == name) for name in STATIC_COMPONENTS}

    def alive_after(self, event: int) -> Iterator[Storage]:
        """Return the storages that are alive right after an event."""
        numbers: dict[int, None] = {}
        for number in self.events[: event + 1]:
            if number >= 0:
                numbers[number] = None
            else:
                del numbers[~number]
        return (self.storages[number] for number in numbers)

    def _update_peak(self, op: str) -> None:
        if not self.phase_starts:
            return
        phase = self.phase_starts[-1][1]
        if phase not in self.peaks or self.live_bytes > self.peaks[phase].bytes:
            self.peaks[phase] = Peak(bytes=self.live_bytes, event=len(self.events) - 1, op=op)
