"""The whole step of a run under ZeRO as one micro-batch, with every layer interpreted, for replays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.sharding.zero.offload import OffloadedState
from calculator.training_step.periods import Window
from calculator.training_step.step import TrainingStep
from calculator.training_step.unrolled import Unrolled
from calculator.training_step.whole_tape import whole_tape
from calculator.training_step.zero.replayed import FlatStep
from calculator.training_step.zero.replayed_offload import OffloadedStep
from calculator.training_step.zero3.replayed import PartitionedStep

if TYPE_CHECKING:
    from calculator.sharding.zero.replayed import StepEvents
    from calculator.training_step.resident_state import ResidentState


def unrolled_step(resident: ResidentState) -> Unrolled:
    """Return the step of the rank with the highest peak of live tensors."""
    return as_micro_batch(step_of(resident).events)


def as_micro_batch(events: StepEvents) -> Unrolled:
    """Return a step's events as a micro-batch.

    Its forward pass is that of the first micro-batch. Its backward pass is everything after that.
    """
    forward, backward = events.passes
    return Unrolled(
        rows=events.rows,
        forward=[Window(forward, 0, (0,))],
        backward=[Window(backward, 0, (0,))],
        base=len(events.rows) + len(events.events),
        stride=1,
        copies=0,
        products=events.tape.products,
        streams=events.streams if any(events.streams) else (),
    )


def step_of(resident: ResidentState, rank: int | None = None) -> FlatStep | PartitionedStep:
    """Return the step of a rank under stages 1 and 2, by default the one with the highest peak, or that of stage 3.

    Raises:
        ValueError: if the run is not under ZeRO.
    """
    tape, repetition = whole_tape(resident.prepared)
    if resident.partitioned is not None:
        return PartitionedStep(resident.partitioned, tape, repetition)
    if resident.flat is None:
        message = "only a run under ZeRO has such a step"
        raise ValueError(message)
    if rank is None:
        peaks = TrainingStep(resident).flat
        rank = 0 if peaks is None else peaks.peak_rank.number
    kind = OffloadedStep if isinstance(resident.flat, OffloadedState) else FlatStep
    return kind(resident.flat, tape, rank)
