"""The weights that the steps of a request gather, with as few copies of its layers followed as are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.sharding.zero3.copies import substitutes_of
from calculator.sharding.zero3.first_copy import first_copy
from calculator.sharding.zero3.followed import Followed, choices
from calculator.sharding.zero3.gathering import Gathering
from calculator.sharding.zero3.numbered_calls import step_calls
from calculator.sharding.zero3.numbered_gathering import NumberedGathering
from calculator.sharding.zero3.parameters import CAST
from calculator.sharding.zero3.program import Program, leaves_of
from calculator.trainers import trainer_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.engine.memory_curve import Window
    from calculator.engine.repetition import Repetition
    from calculator.engine.tape import Tape
    from calculator.methods.prepared_model import PreparedModel
    from calculator.sharding.zero3.gathering import Syncs
    from calculator.sharding.zero3.numbered_calls import StepCalls
    from calculator.sharding.zero3.state import PartitionedState


#: The windows of a step without passes apart from those of the loss: forward and backward.
WINDOWS = 2


class Called(NamedTuple):
    """A micro-batch that marks the calls of modules, and the windows of its repeated layers."""

    tape: Tape
    windows: Sequence[Window]


def gathering_of(
    state: PartitionedState, last: Called, first: Called | None, repetition: Repetition
) -> Gathering | NumberedGathering:
    """Return the weights that the steps of a run gather.

    It is cached for runs with other batch sizes that call modules in the same way.
    """
    cached = state.gatherings
    if not cached or not _has_equal_calls(cached[0], last, first):
        cached[:] = [_gathering_of(state, last, first, repetition)]
    return cached[0]


def _syncs(prepared: PreparedModel) -> Syncs | None:
    """Return how a trainer gathers the weights that vLLM reads, or None without vLLM."""
    if not prepared.training.use_vllm:
        return None
    return "all at once" if prepared.method.facts.config_class else "one by one"


def _has_equal_calls(cached: Gathering | NumberedGathering, last: Called, first: Called | None) -> bool:
    first_marks = None if cached.first is None else cached.first.marks
    return cached.program.marks == last.tape.marks and first_marks == (None if first is None else first.tape.marks)


def _gathering_of(
    state: PartitionedState, last: Called, first: Called | None, repetition: Repetition
) -> Gathering | NumberedGathering:
    leaves, keeps_loss = leaves_of(last.tape), state.prepared.training.trainer is None
    calls = _recorded_calls(state, last, repetition) if first is None and not leaves else None
    for followed in choices(repetition, state.reach(repetition, leaves)):
        cached = None if calls is None else NumberedGathering(calls, followed, state.sizes, keeps_loss=keeps_loss)
        if cached is not None and not cached.is_steady:
            continue
        gathering = cached if cached is not None and cached.is_known else _followed(state, last, first, followed)
        if gathering.is_steady:
            break
    return gathering


def _recorded_calls(state: PartitionedState, last: Called, repetition: Repetition) -> StepCalls | None:
    """Return the calls of a step of one micro-batch, or None if what it gathers depends on more than them."""
    training, sizes = state.prepared.training, state.sizes
    offloads = sizes.offloads_parameters or sizes.offloads_optimizer
    is_single = training.gradient_accumulation_steps == 1 and trainer_of(training).generation(training) is None
    if offloads or not is_single or training.use_vllm or not sizes.prefetch_bucket:
        return None
    if len(last.windows) != WINDOWS or not repetition.copies:
        return None
    followed = Followed(repetition=repetition, before=1, skipped=repetition.copies)
    own, second_parameters = state.parameters(followed)
    if second_parameters or any(map(CAST, own)):
        return None
    substitutes = substitutes_of(state.prepared)
    program = first_copy(*last, followed, own, substitutes) or Program(*last, followed, own, substitutes, leaves=set())
    return step_calls(program, followed, own, sizes.max_reuse_distance)


def _followed(state: PartitionedState, last: Called, first: Called | None, followed: Followed) -> Gathering:
    """Return the weights that steps gather if each event is followed."""
    training, substitutes = state.prepared.training, substitutes_of(state.prepared)
    parameters = state.parameters(followed)
    every = [*parameters.own, *parameters.second]
    longer = None if first is None else Program(*first, followed, every, substitutes)
    return Gathering(
        Program(*last, followed, every, substitutes, None if longer is None else longer.modules),
        followed,
        parameters,
        (state.sizes, state.sizes_of_second),
        training.gradient_accumulation_steps,
        keeps_loss=training.trainer is None,
        generates=trainer_of(training).generation(training) is not None,
        syncs=_syncs(state.prepared),
        first=longer,
    )
