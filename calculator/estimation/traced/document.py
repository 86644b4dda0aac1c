"""The result of a traced step, which is passed on as JSON.

It has the storages, the order of their allocations and frees, and the operations that ran.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from calculator.resident.tensor import ResidentTensor

if TYPE_CHECKING:
    from calculator.common.dtype import DType
    from calculator.common.names import ComponentName, PhaseName


class Kind(NamedTuple):
    """One kind of storage.

    Numbers in `name` are replaced by `*`. `bytes` is the size of one storage, rounded up to 512.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    component: ComponentName
    bytes: int


class Peak(NamedTuple):
    """The peak of a phase: its bytes, the event that reached it (-1: none), and the operation that ran."""

    bytes: int
    event: int
    operation: str


class Span(NamedTuple):
    """A part of a phase, such as one layer, and the most bytes alive in it."""

    phase: PhaseName
    operation: str
    bytes: int


class Loaded(NamedTuple):
    """A tensor that is loaded before the first step.

    `parameters` is 0 for a constant or a buffer.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    component: ComponentName
    parameters: int
    base: bool
    packed: bool
    bytes: int

    def resident(self) -> ResidentTensor:
        """Return the tensor in the form that the allocator's replay loads."""
        return ResidentTensor(**self._asdict())


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceDocument:
    """A traced step.

    Attributes:
        model_type: The model's type, as transformers spells it.
        versions: The releases of the libraries that ran.
        seconds: The duration of the trace, without the import of the libraries.
        parameters: The numbers of parameters: `base`, `added`, `trainable` and `total`.
        saved_bytes: The size of a checkpoint of the trained parameters.
        loaded: Weights, constants and buffers, in the order of the model.
        kinds: Every kind of storage.
        storages: The kind of each storage, in the order of allocation.
        static: The number of storages that are alive before the step. They come first.
        events: `n` where storage `n` is allocated, `~n` where it is freed.
        phase_starts: The number of events before each phase, and the phase.
        peaks: The peak of each phase.
        timeline: The peaks of the step's parts, in order.
        operations: The operations that allocate in the step.
        unchecked: The operations among them that allocate in no step that the calculator models.
        kernel_packages: Packages that would replace functions of the model, with these functions.
        guesses: What was guessed of values that a trace does not have, in sentences.
    """

    model_type: str
    versions: dict[str, str]
    seconds: float
    parameters: dict[str, int]
    saved_bytes: int
    loaded: tuple[Loaded, ...]
    kinds: tuple[Kind, ...]
    storages: tuple[int, ...]
    static: int
    events: tuple[int, ...]
    phase_starts: tuple[tuple[int, PhaseName], ...]
    peaks: dict[PhaseName, Peak]
    timeline: tuple[Span, ...]
    operations: tuple[str, ...]
    unchecked: tuple[str, ...]
    kernel_packages: dict[str, tuple[str, ...]]
    guesses: tuple[str, ...]

    def kind(self, storage: int) -> Kind:
        """Return the kind of a storage."""
        return self.kinds[self.storages[storage]]

    def alive_after(self, event: int) -> list[int]:
        """Return the storages that are alive after an event, in the order of allocation."""
        alive: dict[int, None] = {}
        for number in self.events[: event + 1]:
            if number >= 0:
                alive[number] = None
            else:
                del alive[~number]
        return list(alive)

    def to_json(self) -> str:
        """Return the document as JSON."""
        return json.dumps({field.name: getattr(self, field.name) for field in fields(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> TraceDocument:
        """Parse a JSON text that `to_json` returned."""
        given: dict[str, Any] = json.loads(text)
        return cls(
            **{
                **given,
                "loaded": tuple(Loaded(name, tuple(shape), *rest) for name, shape, *rest in given["loaded"]),
                "kinds": tuple(Kind(name, tuple(shape), *rest) for name, shape, *rest in given["kinds"]),
                "storages": tuple(given["storages"]),
                "events": tuple(given["events"]),
                "phase_starts": tuple((at, phase) for at, phase in given["phase_starts"]),
                "peaks": {phase: Peak(*peak) for phase, peak in given["peaks"].items()},
                "timeline": tuple(Span(*span) for span in given["timeline"]),
                "operations": tuple(given["operations"]),
                "unchecked": tuple(given["unchecked"]),
                "kernel_packages": {name: tuple(functions) for name, functions in given["kernel_packages"].items()},
                "guesses": tuple(given["guesses"]),
            }
        )
