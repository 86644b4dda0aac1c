"""The ledger of one traced step: every storage that lived, where it was born, and the order of births and frees."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.common.names import ComponentName

#: What the CUDA caching allocator rounds a request up to. Source: c10/cuda/CUDACachingAllocator.h, kMinBlockSize.
GRANULE = 512


def rounded(nbytes: int) -> int:
    """Bytes as the caching allocator counts them."""
    return -(-nbytes // GRANULE) * GRANULE


#: The names of what is traced: a step's phases, or the passes of `generate`.
P = TypeVar("P", bound=str)


@dataclass(slots=True)
class Storage:
    """One allocation of the step.

    `name` is a parameter's or state's name where it has one; `module` and `op` are where it was born: the module path
    with its layer index and the operation; `moment` is `static`, `forward`, `backward`, `recompute` or `optimizer`.
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

    @property
    def bytes(self) -> int:
        """Its size, rounded up to 512 bytes."""
        return rounded(self.nbytes)

    @property
    def born(self) -> str:
        """Where it was born, as one word: `model.layers.0.mlp.up_proj:aten.mm`."""
        return f"{self.module}:{self.op}"


@dataclass(frozen=True, slots=True)
class Peak:
    """The most that was alive in a phase, and the event that reached it (-1: before the first)."""

    bytes: int
    event: int
    op: str


@dataclass(slots=True)
class Ledger(Generic[P]):
    """Storages by number, and events in order: a storage's number where it is born, its complement where freed."""

    storages: list[Storage] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    marks: list[tuple[int, P]] = field(default_factory=list)
    peaks: dict[P, Peak] = field(default_factory=dict)
    live: int = 0

    def enter(self, phase: P) -> None:
        """Begin a phase or pass: what is alive already counts towards its peak."""
        self.marks.append((len(self.events), phase))
        self._reach(f"start of {phase}")

    def birth(self, storage: Storage) -> None:
        """Record that a storage was allocated."""
        self.events.append(storage.number)
        self.storages.append(storage)
        self.live += storage.bytes
        self._reach(storage.born)

    def death(self, number: int) -> None:
        """Record that a storage was freed."""
        self.events.append(~number)
        self.live -= self.storages[number].bytes

    def static(self) -> dict[str, int]:
        """Bytes of the components that are there before the step."""
        told = ("base_weights", "quantization_constants", "adapter_weights", "optimizer_states")
        before = [storage for storage in self.storages if storage.moment == "static"]
        return {name: sum(s.bytes for s in before if s.component == name) for name in told}

    def alive(self, event: int) -> Iterator[Storage]:
        """The storages alive right after an event."""
        numbers: dict[int, None] = {}
        for number in self.events[: event + 1]:
            if number >= 0:
                numbers[number] = None
            else:
                del numbers[~number]
        return (self.storages[number] for number in numbers)

    def _reach(self, op: str) -> None:
        if not self.marks:
            return
        phase = self.marks[-1][1]
        if phase not in self.peaks or self.live > self.peaks[phase].bytes:
            self.peaks[phase] = Peak(bytes=self.live, event=len(self.events) - 1, op=op)
