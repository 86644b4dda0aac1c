"""One training step: the peak of each phase and what is alive there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from calculator.deferred import Deferred
from calculator.held import Held
from calculator.step import masks, router_loss
from calculator.step.alive import Alive
from calculator.step.causal_lm import micro_batch
from calculator.step.context import KERNELS, Context
from calculator.step.level import Window
from calculator.step.recording import Recording

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.answer import PhaseName
    from calculator.methods import Method
    from calculator.model import Model
    from calculator.state import Stored
    from calculator.step.kernels import Kernels
    from calculator.step.level import Moment
    from calculator.step.tape import Born
    from calculator.training import Training


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """A phase's peak: all bytes, those among them that are there throughout the phase, and what ran.

    `left` is alive too, from the step before. `found` gives all that is alive, once it is asked for.
    """

    phase: PhaseName
    bytes: int
    throughout: int
    operation: str
    left: Counter[Born]
    found: Deferred[Alive]

    @property
    def alive(self) -> Alive:
        """What is alive."""
        return self.found()


class TrainingStep:
    """A plan's step, interpreted with the attention kernels that there are."""

    __slots__ = (
        "context",
        "gradients",
        "model",
        "optimizer",
        "recording",
        "state",
        "states",
        "temporaries",
        "training",
    )

    def __init__(
        self, model: Model, method: Method, training: Training, *, kernels: Kernels = KERNELS, held: Held | None = None
    ) -> None:
        held = held or Held(model, method, training)
        self.model = model
        self.training = training
        self.optimizer = held.optimizer
        self.state = held.state
        self.states = held.states
        self.gradients = held.gradients
        self.temporaries = held.temporaries
        self.context = Context(held.treated, training=training, kernels=kernels)
        if _first_is_like_all(self.context):
            self.context.repetition = self.context.repetition.from_the_first()
        micro_batch(self.context)
        self.recording = _recording(self.context)

    def peaks(self) -> tuple[Peak, Peak, Peak]:
        """Forward, backward and optimizer step."""
        always = (*self.state, *self.states)
        accumulated = (*always, *self.gradients) if self.training.gradient_accumulation_steps > 1 else always
        left = self.recording.at_the_end()
        marks, level = self.marks, self.recording.level
        forward = level.peak(marks["forward"], marks["backward"])
        backward = level.peak(marks["backward"], marks["end"])
        in_step = (*always, *self.gradients, *self.temporaries)
        return (
            self._peak("forward", accumulated, forward, left - self._given(marks["forward"])),
            self._peak("backward", accumulated, backward, Counter()),
            _last(f"{self.optimizer.name}: step", in_step, left),
        )

    @property
    def layers(self) -> int:
        """How many layers the model has."""
        repetition = self.context.repetition
        return len(repetition.numbers) + repetition.copies * (repetition.end - repetition.start)

    @property
    def marks(self) -> dict[str, int]:
        """Where the step's points are."""
        return {label: position for position, label in self.context.tape.marks}

    def _peak(self, phase: PhaseName, state: Sequence[Stored], moment: Moment, left: Counter[Born]) -> Peak:
        rows = self.context.tape.rows
        event = self.context.tape.events[moment.event - 1] if moment.event else 0
        throughout = _bytes(state, left)
        return Peak(
            phase=phase,
            bytes=throughout + moment.bytes,
            throughout=throughout,
            operation=rows[event if event >= 0 else ~event][0],
            left=left,
            found=Deferred(partial(self.recording.alive, moment, state, left)),
        )

    def _given(self, end: int) -> Counter[Born]:
        """The caller's tensors, which are on the tape before the forward pass."""
        return Counter(self.context.tape.rows[event] for event in self.context.tape.events[:end])


def _last(operation: str, state: Sequence[Stored], left: Counter[Born]) -> Peak:
    """The optimizer's step, which is all of its peak."""
    size = _bytes(state, left)
    found = Deferred(partial(Alive, state, (), [*left.items()]))
    return Peak(phase="optimizer_step", bytes=size, throughout=size, operation=operation, left=left, found=found)


def _bytes(state: Sequence[Stored], born: Counter[Born]) -> int:
    return sum([tensor.bytes for tensor in state]) + sum([row[4] * count for row, count in born.items()])


def _first_is_like_all(context: Context) -> bool:
    """Whether the first layer can stand for all of its kind, so that no second one need be run.

    A checkpointed layer keeps its input and nothing else of what came before it. Not so where one mask is dropped
    before another, where autocast keeps a copy of the first one's input, and where all layers' logits go into the loss.
    """
    if not context.training.gradient_checkpointing or context.training.autocast is not None:
        return False
    return len(masks.types(context.layers)) == 1 and not router_loss.asked(context.model)


def _recording(context: Context) -> Recording:
    repetition = context.repetition
    marks = {label: position for position, label in context.tape.marks}
    windows = []
    if repetition.copies:
        before, start, end = (f"layer {place}" for place in repetition.places)
        windows.append(
            Window(
                before=marks[f"{before} forward"],
                start=marks[f"{start} forward"],
                end=marks[f"{end} forward"],
                copies=repetition.copies,
            )
        )
        if f"{start} backward" in marks:
            begin, done = marks[f"{end} backward"], marks[f"{start} backward"]
            windows.append(Window(before=begin, start=begin, end=done, copies=repetition.copies))
    first = marks["layer 0 forward"]
    shared = next(event for event in context.tape.events[first:] if event >= 0)
    handed_on = context.tape.passed[f"layer {repetition.end} forward"] if repetition.start == 0 else None
    return Recording(context.tape, tuple(windows), shared, handed_on)
