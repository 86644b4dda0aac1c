"""The allocations of a whole step under ZeRO in order: those of the model's tape, and DeepSpeed's between them.

A replay runs a step as one micro-batch. Its forward pass is that of the first micro-batch. Its backward pass is all
that follows, up to the float32 gradients from which the optimizer updates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE, allocated
from calculator.engine.offloading import previous_rows
from calculator.sharding.streams import streams_of
from calculator.sharding.zero.state import PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.common.dtype import DType
    from calculator.common.names import ComponentName, PhaseName
    from calculator.engine.tape import Allocation, Tape
    from calculator.inputs.sharding import ShardingName
    from calculator.resident.tensor import ResidentTensor

#: The number of micro-batches of a step that differ: the first, one in the middle, and the last.
MICRO_BATCHES = 3

#: Tensors of the optimizer's step that a replay allocates after the backward pass.
IN_FLOAT64, FLAT, IN_FLOAT32 = "gradient in float64", "flat gradients", "float32 gradients"
OF_UPDATE = frozenset(f"{PREFIX}{name}" for name in (IN_FLOAT64, FLAT, IN_FLOAT32))

#: The numbers of the streams of gathers and of reductions, in `streams.STREAMS`.
GATHERS, REDUCTIONS = 1, 2


class StepEvents:
    """The events of a step. Event `n` allocates row `n`, and event `~n` frees it.

    `rows` are those of the tape, once for each micro-batch, and those of DeepSpeed. They have the numbers of their
    streams and the `phases` that allocate them.
    """

    def __init__(self, tape: Tape, sharding: ShardingName, *, offloads: bool) -> None:
        self.tape = tape
        #: The numbers of the streams of the tape's rows.
        self._streams = streams_of(tape.rows, sharding, offloads=offloads) or [0] * len(tape.rows)
        #: The rows that stand for what an earlier micro-batch leaves, which is played too.
        self._previous = previous_rows(tape) if offloads else frozenset()
        self.rows: list[Allocation] = []
        self.streams: list[int] = []
        self.phases: list[PhaseName] = []
        self.events: list[int] = []
        #: The number of events in the forward pass of the first micro-batch.
        self.forward = 0
        self._first_row = 0
        self._at = 0
        self._left: list[int] = []
        marks = {label: at for at, label in tape.marks}
        self.backward, self.end = marks["backward"], marks["end"]
        self._kept: set[int] = set()
        in_forward = {event for event in tape.events[: self.backward] if event >= 0}
        self._phases: list[PhaseName] = [
            "forward" if row in in_forward else "backward" for row in range(len(tape.rows))
        ]

    def begin(self) -> None:
        """Begin a micro-batch."""
        self._first_row, self._at = len(self.rows), 0
        self.rows += self.tape.rows
        self.streams += self._streams
        self.phases += self._phases

    def play_to(self, position: int) -> None:
        """Play the events of the tape up to a position.

        What the old loss kept is freed where the backward pass begins.
        """
        if self._at < self.backward <= position:
            self._play(self.backward)
            self.events += [~row for row in self._left]
            self._left = []
            self.forward = self.forward or len(self.events)
        self._play(position)

    def _play(self, position: int) -> None:
        first, kept = self._first_row, self._kept
        for event in self._events(self._at, position):
            if event >= 0:
                self.events.append(event + first)
            elif ~event + first not in kept:
                self.events.append(event - first)
        self._at = max(self._at, position)

    def finish(self) -> None:
        """Play the rest of a micro-batch.

        What it leaves alive is freed in the next forward pass, if one follows.
        """
        self.play_to(self.end)
        events = self._events(0, self.end)
        freed = {~event for event in events if event < 0}
        self._left = [event + self._first_row for event in events if event >= 0 and event not in freed]

    def _events(self, start: int, end: int) -> Sequence[int]:
        """Return events of the tape, without those of what an earlier micro-batch leaves."""
        events, previous = self.tape.events[start:end], self._previous
        return [event for event in events if max(event, ~event) not in previous] if previous else events

    def gradient_at(self, position: int) -> int | None:
        """Return the row of the gradient that is ready and freed at a position of the tape."""
        event = self.tape.events[position] if position < self.end else 0
        return ~event + self._first_row if event < 0 else None

    def keep(self, row: int) -> None:
        """Keep a gradient alive that the tape frees."""
        self._kept.add(row)

    def allocate(
        self, name: str, size: int, dtype: DType, component: ComponentName = "workspace", stream: int = 0
    ) -> int:
        """Allocate a tensor of some bytes, and return its row."""
        self.rows.append((PREFIX + name, (), dtype, component, size))
        self.streams.append(stream)
        in_pass: PhaseName = "forward" if self._at < self.backward else "backward"
        self.phases.append("optimizer_step" if PREFIX + name in OF_UPDATE else in_pass)
        self.events.append(len(self.rows) - 1)
        return len(self.rows) - 1

    def allocate_elements(
        self, name: str, elements: int, dtype: DType, component: ComponentName = "workspace", stream: int = 0
    ) -> int:
        """Allocate a tensor of some elements."""
        return self.allocate(name, allocated(elements, ITEMSIZE[dtype]), dtype, component, stream)

    def allocate_like(self, tensor: ResidentTensor, stream: int = 0) -> list[int]:
        """Allocate a resident tensor, or several of one kind."""
        name, size = tensor.name.removeprefix(PREFIX), tensor.bytes // tensor.count
        return [self.allocate(name, size, tensor.dtype, tensor.component, stream) for _ in range(tensor.count)]

    def free(self, rows: Iterable[int]) -> None:
        """Free rows."""
        self.events += [~row for row in rows]

    @property
    def passes(self) -> tuple[Sequence[int], Sequence[int]]:
        """The events of the first forward pass, and those after it."""
        return self.events[: self.forward], self.events[self.forward :]
