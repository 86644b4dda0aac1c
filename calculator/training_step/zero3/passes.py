"""The steps of a run under stage 3 from its first one on, and the fullest moments of the one in its steady state."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.common.dtype import ITEMSIZE, allocated
from calculator.engine import module_calls
from calculator.engine.autograd import GRADIENT_OF
from calculator.sharding.zero3.coordinator import Coordinator
from calculator.sharding.zero3.parameters import Live
from calculator.sharding.zero3.reduction import Bucket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.common.dtype import DType
    from calculator.sharding.zero3.parameters import Partitioned, Storage
    from calculator.sharding.zero3.sizes import Sizes
    from calculator.training_step.zero3.program import Event, Program

#: The steps that run before the first that is like all later ones, and the micro-batches of each that differ.
STEPS, MICRO_BATCHES = 3, 3


class Fullest(NamedTuple):
    """The fullest moment of a phase: bytes with what the tape has, its position, and the parts that stage 3 adds."""

    bytes: int
    event: int
    gathered: int
    reducing: int


#: No moment yet.
EMPTY = Fullest(-1, 0, 0, 0)


class Passes:
    """The run's steps: what is gathered and reduced on top of the micro-batch's own tensors.

    `base` are the bytes of the micro-batch alive before each event. `keeps_loss`: whether the loop refers to the loss,
    and so to its graph, until the next one.
    """

    def __init__(
        self,
        program: Program,
        base: Sequence[int],
        parameters: list[Partitioned],
        sizes: Sizes,
        dtype: DType,
        micro_batches: int,
        *,
        keeps_loss: bool,
    ) -> None:
        self._program, self._base, self._dtype = program, base, dtype
        self._gathered, self._reducing = Live(), Live()
        self._coordinator = Coordinator(sizes, self._gathered, parameters)
        self._bucket = Bucket(sizes, self._reducing, dtype)
        self._pins: dict[str, Storage] = {}
        #: What the graphs of the last loss and of the one before refer to.
        self._kept: list[Storage] = []
        self._kept_before: list[Storage] = []
        self._at = 0
        #: The fullest moments of the passes.
        self.forward = self.backward = EMPTY
        #: The most bytes that are gathered while the optimizer's step begins.
        self.at_step = 0
        #: The bytes of gathered weights that are alive throughout that step.
        self.kept = 0
        #: The bytes that a step's all-gathers result in.
        self.sent = 0
        #: Moments of the passes: a position on the tape, and the bytes there.
        self.moments: list[tuple[int, int]] = []
        for step in range(STEPS):
            self.sent = 0
            last = step == STEPS - 1
            count = min(MICRO_BATCHES, micro_batches)
            for number in range(count):
                self._bucket.is_last = number == count - 1
                before = self._coordinator.sent
                self._run(measures=last)
                if not keeps_loss:
                    self._replace_loss(self._kept)
                alike = micro_batches - 2 if number == 1 and micro_batches > MICRO_BATCHES else 1
                self.sent += alike * (self._coordinator.sent - before)
            self._gathered.reset()
            self._coordinator.release_all()
            self.at_step, self.kept = self._gathered.most, self._gathered.bytes
            before = self._coordinator.sent
            self._reducing.bytes = 0
            self._gathered.reset()
            self._coordinator.gather_persistent()
            self.sent += self._coordinator.sent - before
        #: The most bytes alive while the parameters that stay gathered between steps are gathered.
        self.persistent = self._gathered.most

    def _run(self, *, measures: bool) -> None:
        program = self._program
        self._at = program.forward
        self._coordinator.begin()
        self._kept, self._kept_before = [], self._kept
        for event in program.events:
            if event.position > program.backward:
                self._end_forward(measures=measures)
            if measures:
                self._until(event.position)
            self._gathered.reset()
            self._reducing.reset()
            self._apply(event, measures=measures)
            if measures and event.kind != GRADIENT_OF:
                self._note(event.position)
        if measures:
            self._until(program.end)
        self._gathered.reset()
        self._reducing.reset()
        self._bucket.reduce()
        if measures:
            self._note(program.end)
        self._coordinator.end_backward()

    def _end_forward(self, *, measures: bool) -> None:
        """Replace the loss before by that of the forward pass that has ended."""
        if self._kept_before:
            if measures:
                self._until(self._program.backward)
            self._replace_loss(self._kept_before)

    def _replace_loss(self, of_graph: list[Storage]) -> None:
        """Free what the graph of a loss refers to."""
        for each in of_graph:
            each.drop()
        of_graph.clear()

    def _apply(self, event: Event, *, measures: bool) -> None:
        kind, module = event.kind, event.module
        if kind == module_calls.BEFORE_FORWARD and module is not None:
            self._coordinator.fetch(module, recomputes=event.position > self._program.backward)
        elif kind == module_calls.AFTER_FORWARD and module is not None:
            self._coordinator.release(module)
        elif kind == module_calls.BEFORE_BACKWARD and module is not None:
            self._coordinator.fetch(module, backward=True)
        elif kind == module_calls.AFTER_BACKWARD and module is not None:
            self._coordinator.release(module, backward=True)
        elif event.parameter is not None:
            self._of_parameter(event, event.parameter, measures=measures)

    def _of_parameter(self, event: Event, parameter: Partitioned, *, measures: bool) -> None:
        if event.kind == module_calls.PINNED:
            if parameter.storage is not None:
                parameter.storage.references += 1
                self._pins[event.serial] = parameter.storage
        elif event.kind == module_calls.UNPINNED:
            pinned = self._pins.pop(event.serial, None)
            if pinned is not None:
                pinned.drop()
        elif event.kind == module_calls.KEPT:
            if parameter.storage is not None and event.position <= self._program.backward:
                parameter.storage.references += 1
                self._kept.append(parameter.storage)
        else:
            self._reduce(event, parameter, measures=measures)

    def _reduce(self, event: Event, parameter: Partitioned, *, measures: bool) -> None:
        """Put a gradient into the bucket, and reduce a full one before. The end of the pass reduces the rest."""
        if self._bucket.is_full(parameter):
            self._bucket.reduce()
        if measures:
            self._note(event.position)
        self._bucket.add(parameter)
        self._reducing.reset()
        if measures:
            self._note(event.position, without=allocated(parameter.elements, ITEMSIZE[self._dtype]))
        self._reducing.reset()

    def _until(self, position: int) -> None:
        """Note the fullest moment of the tape's events up to a position."""
        if position > self._at:
            for start, end in self._cuts(self._at + 1, position + 1):
                most = max(self._base[start:end])
                total = most + self._gathered.bytes + self._reducing.bytes
                self.moments.append((start, total))
                if total > self._of(start).bytes:
                    at = self._base.index(most, start)
                    self._set(start, Fullest(total, at, self._gathered.bytes, self._reducing.bytes))
        self._at = position

    def _cuts(self, start: int, end: int) -> list[tuple[int, int]]:
        """Part a range of events at the beginning of the backward pass."""
        middle = self._program.backward + 1
        return [(start, middle), (middle, end)] if start < middle < end else [(start, end)]

    def _note(self, position: int, without: int = 0) -> None:
        gathered, reducing = self._gathered.most, self._reducing.most
        total = self._base[position] + gathered + reducing - without
        self.moments.append((position, total))
        if total > self._of(position).bytes:
            self._set(position, Fullest(total, position, gathered, reducing))

    def _of(self, position: int) -> Fullest:
        return self.forward if position <= self._program.backward else self.backward

    def _set(self, position: int, found: Fullest) -> None:
        if position <= self._program.backward:
            self.forward = found
        else:
            self.backward = found
