"""An out-of-memory error of a run: the failed allocation, the live tensors, and the single changes that end it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from calculator.common.deferred import Deferred
from calculator.common.errors import refusal
from calculator.devices import Verdict
from calculator.diagnosis.changes import changes
from calculator.diagnosis.journal import journal_of
from calculator.diagnosis.matching import Match, OtherLength, alive, matches, other_lengths
from calculator.diagnosis.phase_changes import phase_changes
from calculator.diagnosis.phase_matches import phase_matches
from calculator.diagnosis.snapshot_match import SnapshotMatch, match_snapshot
from calculator.estimation.estimate import estimate
from calculator.estimation.request import reserved_by
from calculator.estimation.sample_lengths import with_one_length
from calculator.run.request import RunRequest
from calculator.trainers import trainer_of
from calculator.training_step.unrolled import unrolled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.common.errors import PlanError
    from calculator.common.names import ComponentName
    from calculator.devices.outcome import Outcome, OutOfMemory
    from calculator.diagnosis.change import Change
    from calculator.diagnosis.message import Message
    from calculator.diagnosis.phase_match import PhaseMatch
    from calculator.diagnosis.snapshot import Snapshot
    from calculator.estimation.answer import Estimate
    from calculator.estimation.device_replay import DeviceReplay
    from calculator.estimation.request import Request
    from calculator.inputs.run import RunSettings

#: Whether several, one or no tensors of the run have the requested size.
Found = Literal["one", "several", "none"]

#: The maximum number of tensors that an answer lists as alive.
MOST_ALIVE = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive:
    """Tensors of one kind that are alive when the allocation is requested."""

    name: str
    component: ComponentName
    count: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """An out-of-memory error explained.

    Attributes:
        message: The figures of the error.
        estimate: The run's estimate.
        found: Whether several, one or no tensors of the run have the requested size.
        matches: The tensors of that size in the load and the steps, the most likely first.
        in_phases: The tensors of that size in evaluation and merging, the most likely first.
        alive: The largest tensors that are alive at the first of `matches`.
        alive_by_component: The bytes of all tensors alive then.
        other_lengths: If no tensor has the size, the tensors that have it at another sequence length.
        is_fragmented: Whether the cached blocks together are as large as the request, although none of them is.
        outcome: The outcome of the run by replay, with the memory of the error's device.
        every_change: Single changes, those that end the error first, then by saving. Estimated when they are read.
        usable_bytes: The bytes that the error's device offered this process, including the CUDA context.
        snapshot: The blocks of a snapshot next to the run's tensors, if one was given.
    """

    message: Message
    estimate: Estimate
    found: Found
    matches: tuple[Match, ...]
    alive: tuple[Alive, ...]
    alive_by_component: Mapping[ComponentName, int]
    other_lengths: tuple[OtherLength, ...]
    is_fragmented: bool
    outcome: Outcome
    every_change: Deferred[tuple[Change, ...]]
    usable_bytes: int
    snapshot: SnapshotMatch | None
    in_phases: tuple[PhaseMatch, ...] = ()

    @property
    def changes(self) -> tuple[Change, ...]:
        """Single changes, those that end the error first, then by saving."""
        return self.every_change()

    @property
    def phase_match(self) -> PhaseMatch | None:
        """The first match in a phase other than the steps, if it is more likely than any match in the steps."""
        if not self.in_phases:
            return None
        first = self.in_phases[0]
        if self.message.in_evaluation or not self.matches or not self.matches[0].is_reached:
            return first
        return first if abs(first.difference_bytes) < abs(self.matches[0].difference_bytes) else None

    @property
    def predicted(self) -> OutOfMemory | None:
        """Where the run runs out of memory by replay on that device. None if it does not."""
        return self.outcome.result().out_of_memory

    @property
    def reproduces(self) -> bool:
        """Whether the run ends out of memory by replay too."""
        return self.outcome.verdict is Verdict.DOES_NOT_FIT


def diagnose(
    request: Request, message: Message | None, snapshot: Snapshot | None = None, run: RunSettings | None = None
) -> Diagnosis:
    """Explain an error of a run, from its message or from the request that failed in a snapshot.

    With `run`, the evaluation and merging of a whole run are searched too.

    Raises:
        PlanError: if the run cannot be replayed, the libraries refuse the combination, or there is neither.
    """
    request = replayable(request)
    if message is None:
        if snapshot is None:
            raise refusal("message", "give the text of the error, or a snapshot", None)
        message = snapshot.message()
    answer = estimate(request)
    replay = replay_of(answer)
    journal = journal_of(replay, message.total.bytes)
    journal_matches = matches(journal, message)
    usable = message.capacity_bytes + replay.context_bytes
    outcome = replay.outcome(usable)
    listed = alive(journal, journal_matches[0]) if journal_matches else ()
    by_component: dict[ComponentName, int] = {}
    for kind, _, size in listed:
        by_component[kind.component] = by_component.get(kind.component, 0) + size
    workspaces = sum(replay.workspaces)
    whole = None if run is None else RunRequest(estimate=request, run=run)
    in_phases = () if whole is None else phase_matches(whole, replay.resident, workspaces, message)
    names = {match.tensor for match in journal_matches} | {match.tensor for match in in_phases}
    diagnosis = Diagnosis(
        message=message,
        estimate=answer,
        found="none" if not names else "one" if len(names) == 1 else "several",
        matches=journal_matches,
        alive=tuple(
            Alive(name=kind.name, component=kind.component, count=count, bytes=size)
            for kind, count, size in listed[:MOST_ALIVE]
        ),
        alive_by_component=by_component,
        in_phases=in_phases,
        other_lengths=() if names else _other_lengths(request, replay, message),
        is_fragmented=message.unallocated.bytes >= message.requested.bytes,
        outcome=outcome,
        every_change=Deferred(partial(changes, request, answer, outcome, usable)),
        usable_bytes=usable,
        snapshot=None if snapshot is None else match_snapshot(journal, snapshot),
    )
    first = diagnosis.phase_match
    if whole is None or first is None:
        return diagnosis
    fixed = workspaces + replay.context_bytes
    changes_of_phase = Deferred(partial(phase_changes, whole, replay.resident, first, usable, fixed))
    return replace(diagnosis, every_change=changes_of_phase)


def replayable(request: Request) -> Request:
    """Return the request with its longest micro-batch and a replay, without a device that limits it.

    Raises:
        PlanError: if the run is not replayed.
    """
    if request.accounting == "textbook":
        message = "textbook accounting has no allocations in order: leave accounting out, or set it to exact"
        raise refusal("accounting", message, request.accounting)
    request = replace(with_one_length(request), reserved="replay")
    if reserved_by("replay", request.device, request.training) == "rule":
        raise _not_replayed(request)
    return request


def _not_replayed(request: Request) -> PlanError:
    """Return the error for a run under ZeRO whose allocations are not known in order.

    Only the order tells which tensors are alive at an out-of-memory error.
    """
    training, name = request.training, request.device.sharding
    for part in ("offload_optimizer", "offload_param"):
        if (offload := getattr(training.zero, part)) is not None and offload.device == "cpu":
            message = (
                f"the order in which DeepSpeed copies to and from the host is not modeled under {name}, only its peak:"
                " leave it out, or use the estimate, which has the peak's tensors"
            )
            return refusal(f"training.deepspeed.zero_optimization.{part}.device", message, offload.device)
    message = (
        f"the order in which {trainer_of(training).facts.label} generates and scores completions is not modeled under"
        f" {name}, only its peak: use ddp or fsdp, or the estimate, which has the peak's tensors"
    )
    return refusal("training.trainer", message, training.trainer)


def replay_of(answer: Estimate) -> DeviceReplay:
    """Return the replay of an estimate."""
    assert answer.memory.replay is not None
    return answer.memory.replay


def _other_lengths(request: Request, replay: DeviceReplay, message: Message) -> tuple[OtherLength, ...]:
    prepared = replay.resident.prepared
    events = unrolled(prepared.first_micro_batch).events()
    return other_lengths((events,), message.requested, request.training.sequence_length)
