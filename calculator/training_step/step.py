"""One training step: the peak of each phase and what is alive there."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from calculator.common.deferred import Deferred
from calculator.engine.live_tensors import LiveTensors
from calculator.families import forward_of
from calculator.layers.context import KERNELS, Context
from calculator.training_step.resident_state import ResidentState
from calculator.training_step.run import interpreted
from calculator.training_step.symbolic_trace import Series

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.model import Model
    from calculator.common.names import PhaseName
    from calculator.engine.memory_curve import Moment
    from calculator.engine.tape import Allocation
    from calculator.inputs.training import Training
    from calculator.layers.kernels import Kernels
    from calculator.methods import Method
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensors import ResidentTensor


class Peak(NamedTuple):
    """A phase's peak: all bytes, those among them that are there throughout the phase, and what ran.

    `left` is alive too, from the step before. `found` gives all that is alive, once it is asked for.
    """

    phase: PhaseName
    bytes: int
    throughout: int
    operation: str
    left: Counter[Allocation]
    found: Deferred[LiveTensors]

    @property
    def alive(self) -> LiveTensors:
        """What is alive."""
        return self.found()


class TrainingStep:
    """A plan's step, interpreted with the attention kernels that there are.

    `left`: what is alive when it ends, gradients aside; `carried`: what the step before left of that, until the forward
    pass is over.
    """

    __slots__ = ("carried", "held", "kernels", "left", "method", "model", "recording", "run", "series", "training")

    def __init__(
        self,
        model: Model,
        method: Method,
        training: Training,
        *,
        kernels: Kernels = KERNELS,
        held: ResidentState | None = None,
        series: Series | None = None,
        whole: bool = False,
    ) -> None:
        self.held = held or ResidentState(model, method, training)
        self.model = model
        self.method = method
        self.training = training
        self.kernels = kernels
        self.series = series or Series()
        prepared = self.held.prepared
        made = partial(Context, prepared, forward_of(model), training=training, kernels=kernels)
        told = partial(self.series.run_of, prepared, training, kernels)
        self.run, self.recording = interpreted(made, told, whole=whole)
        self.left = self.recording.at_the_end()
        self.carried = self.left - self._given(self.marks["forward"])

    @property
    def state(self) -> tuple[ResidentTensor, ...]:
        """What is always alive of the model under its method."""
        return self.held.state

    @property
    def whole(self) -> TrainingStep:
        """The same step with the first layer run, for what is asked of every layer."""
        if self.recording.first is None:
            return self
        held, kernels, series = self.held, self.kernels, self.series
        return TrainingStep(
            self.model, self.method, self.training, kernels=kernels, held=held, series=series, whole=True
        )

    def peaks(self) -> tuple[Peak, Peak, Peak]:
        """Forward, backward and optimizer step."""
        always = (*self.state, *self.held.states)
        accumulated = (*always, *self.held.gradients) if self.training.gradient_accumulation_steps > 1 else always
        marks, curve = self.marks, self.recording.curve
        forward = curve.peak(marks["forward"], marks["backward"])
        backward = curve.peak(marks["backward"], marks["end"])
        in_step = (*always, *self.held.gradients, *self.held.temporaries)
        return (
            self._peak("forward", accumulated, forward, self.carried),
            self._peak("backward", accumulated, backward, Counter()),
            _last(f"{self.held.optimizer.name}: step", in_step, self.left),
        )

    @property
    def layers(self) -> int:
        """How many layers the model has."""
        repetition = self.run.repetition
        return len(repetition.numbers) + repetition.copies * (repetition.end - repetition.start)

    @property
    def marks(self) -> dict[str, int]:
        """Where the step's points are."""
        return {label: position for position, label in self.run.tape.marks}

    def _peak(
        self, phase: PhaseName, state: Sequence[ResidentTensors], moment: Moment, left: Counter[Allocation]
    ) -> Peak:
        rows = self.run.tape.rows
        event = self.run.tape.events[moment.event - 1] if moment.event else 0
        throughout = _bytes(state, left)
        return Peak(
            phase=phase,
            bytes=throughout + moment.bytes,
            throughout=throughout,
            operation=rows[event if event >= 0 else ~event][0],
            left=left,
            found=Deferred(partial(self.recording.alive, moment, state, left)),
        )

    def _given(self, end: int) -> Counter[Allocation]:
        """The caller's tensors, which are on the tape before the forward pass."""
        return Counter(self.run.tape.rows[event] for event in self.run.tape.events[:end])


def _last(operation: str, state: Sequence[ResidentTensors], left: Counter[Allocation]) -> Peak:
    """The optimizer's step, which is all of its peak."""
    size = _bytes(state, left)
    found = Deferred(partial(LiveTensors, state, (), [*left.items()]))
    return Peak(phase="optimizer_step", bytes=size, throughout=size, operation=operation, left=left, found=found)


def _bytes(state: Sequence[ResidentTensors], born: Counter[Allocation]) -> int:
    return sum([tensor.bytes for tensor in state]) + sum([row[4] * count for row, count in born.items()])
