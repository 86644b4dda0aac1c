"""One training step: the peak of each phase and what is alive there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, get_args

from calculator.answer import ComponentName
from calculator.optimizers import OPTIMIZERS
from calculator.state import Stored, gradients, optimizer_states, stored
from calculator.step import masks, router_loss
from calculator.step.causal_lm import micro_batch
from calculator.step.context import KERNELS, Context
from calculator.step.optimizer_step import temporaries
from calculator.step.recording import Moment, Recording, Window
from calculator.treatment import Treated

if TYPE_CHECKING:
    from calculator.answer import PhaseName
    from calculator.methods import Method
    from calculator.model import Model
    from calculator.step.kernels import Kernels
    from calculator.step.tape import Born
    from calculator.training import Training

COMPONENTS: tuple[ComponentName, ...] = get_args(ComponentName)


@dataclass(frozen=True, kw_only=True)
class Peak:
    """A phase's peak: what is stored throughout, what the step's own storages take, what ran.

    `moment` is where it is in the recording; `left` is alive too, from the step before. `bytes` is everything.
    """

    phase: PhaseName
    bytes: int
    operation: str
    stored: tuple[Stored, ...] = ()
    left: Counter[Born] = field(default_factory=Counter)
    moment: Moment | None = None
    recording: Recording | None = None

    def by_component(self) -> dict[ComponentName, int]:
        """Everything alive in bytes, folded without a row being made."""
        totals = dict.fromkeys(COMPONENTS, 0)
        for tensor in self.stored:
            totals[tensor.component] += tensor.bytes
        for born, count in self.left.items():
            totals[born[3]] += born[4] * count
        if self.recording is not None and self.moment is not None:
            self.recording.count(self.moment, totals)
        return totals

    @cached_property
    def born(self) -> Counter[Born]:
        """How many of each kind of the step's own storages are alive."""
        if self.recording is None or self.moment is None:
            return self.left
        born = self.recording.rows(self.moment)
        born.update(self.left)
        return born


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

    def __init__(self, model: Model, method: Method, training: Training, *, kernels: Kernels = KERNELS) -> None:
        self.model = model
        self.training = training
        self.optimizer = OPTIMIZERS[training.optimizer]
        treated = Treated(model, method, training)
        self.state = stored(treated)
        self.states = tuple(optimizer_states(self.state, self.optimizer))
        self.gradients = tuple(gradients(self.state))
        self.temporaries = temporaries(self.trained, self.optimizer, training.max_grad_norm)
        self.context = Context(treated, kernels=kernels)
        if _first_is_like_all(self.context):
            self.context.repetition = self.context.repetition.from_the_first()
        micro_batch(self.context)
        self.recording = _recording(self.context)

    @property
    def trained(self) -> tuple[Stored, ...]:
        """The parameters that are trained."""
        return tuple([tensor for tensor in self.state if tensor.trained])

    def peaks(self) -> tuple[Peak, Peak, Peak]:
        """Forward, backward and optimizer step."""
        always = (*self.state, *self.states)
        accumulated = (*always, *self.gradients) if self.training.gradient_accumulation_steps > 1 else always
        left = self._left()
        marks = self._marks()
        forward = self.recording.peak(marks["forward"], marks["backward"])
        backward = self.recording.peak(marks["backward"], marks["end"])
        in_step = (*always, *self.gradients, *self.temporaries)
        return (
            self._peak("forward", accumulated, forward, left - self._given(marks["forward"])),
            self._peak("backward", accumulated, backward, Counter()),
            Peak(
                phase="optimizer_step",
                bytes=_bytes(in_step, left),
                operation=f"{self.optimizer.name}: step",
                stored=in_step,
                left=left,
            ),
        )

    @property
    def layers(self) -> int:
        """How many layers the model has."""
        repetition = self.context.repetition
        return len(repetition.numbers) + repetition.copies * (repetition.end - repetition.start)

    def _marks(self) -> dict[str, int]:
        return {label: position for position, label in self.context.tape.marks}

    def _peak(self, phase: PhaseName, state: tuple[Stored, ...], moment: Moment, left: Counter[Born]) -> Peak:
        rows = self.context.tape.rows
        event = self.context.tape.events[moment.event - 1] if moment.event else 0
        operation = rows[event if event >= 0 else ~event][0]
        return Peak(
            phase=phase,
            bytes=_bytes(state, left) + moment.bytes,
            operation=operation,
            stored=state,
            left=left,
            moment=moment,
            recording=self.recording,
        )

    def _given(self, end: int) -> Counter[Born]:
        """The caller's tensors, which are on the tape before the forward pass."""
        return Counter(self.context.tape.rows[event] for event in self.context.tape.events[:end])

    def _left(self) -> Counter[Born]:
        """What the caller, the loss and its graph keep alive until the next forward's loss takes its name."""
        end = len(self.context.tape.events)
        born = self.recording.rows(Moment(event=end, bytes=0, repeats=tuple(w.copies for w in self.recording.windows)))
        return Counter({row: count for row, count in born.items() if row[3] != "gradients"})


def _bytes(state: tuple[Stored, ...], born: Counter[Born]) -> int:
    return sum([tensor.bytes for tensor in state]) + sum([row[4] * count for row, count in born.items()])


def _first_is_like_all(context: Context) -> bool:
    """Whether the first layer can stand for all of its kind, so that no second one need be run.

    A checkpointed layer keeps its input and nothing else of what came before it. Not so where one mask is dropped
    before another, where autocast keeps a copy of the first one's input, and where all layers' logits go into the loss.
    """
    if not context.training.gradient_checkpointing or context.training.autocast is not None:
        return False
    types = {masks.attends(layer.kind) for layer, _ in context.model.distinct_layers}
    return len(types) == 1 and not router_loss.asked(context.model)


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
