"""The allocations of evaluation, generation and merging that an out-of-memory error may refer to.

The loop of an evaluation keeps more with each batch. So the bytes in use tell after how many batches it fails.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

from calculator.allocator.out_of_memory import format_size
from calculator.allocator.segments import SMALL_REQUEST, SMALL_SEGMENT, segment_bytes
from calculator.common.dtype import rounded
from calculator.diagnosis.phase_match import PhaseMatch
from calculator.estimation.answer import Row
from calculator.inference.merging import merge_steps, merged_row
from calculator.inference.served_method import ServedMethod
from calculator.run.evaluation import Evaluation, listed
from calculator.run.gathered import WITH_BATCH
from calculator.run.generation_refusals import check_generation
from calculator.run.refusals import check_model, check_request
from calculator.run.run import between_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from calculator.diagnosis.message import Message
    from calculator.engine.recording import Recording
    from calculator.engine.tape import Allocation
    from calculator.run.answer import RunPhaseName
    from calculator.run.request import RunRequest
    from calculator.training_step.resident_state import ResidentState


class _Pass(NamedTuple):
    """A pass of the model in a phase, with its inputs and the number of rows of the batch."""

    phase: RunPhaseName
    recording: Recording
    start: int
    given: tuple[Row, ...]
    rows: int


def phase_matches(
    request: RunRequest, resident: ResidentState, workspace_bytes: int, message: Message
) -> tuple[PhaseMatch, ...]:
    """Return every tensor of these phases whose segment the error writes as its size.

    They are ordered by the distance between the bytes in use and the error's figure. `workspace_bytes` are the
    library's workspaces, which earlier steps leave.

    Raises:
        PlanError: if a phase of the run is not modeled.
    """
    check_request(request)
    check_model(request, resident.prepared.model)
    check_generation(request.run, resident.prepared)
    phases = _Phases(request, resident, workspace_bytes, message)
    match_by_place: dict[tuple[str, str], PhaseMatch] = {}
    for match in phases.matches():
        first_match = match_by_place.setdefault((match.phase, match.tensor), match)
        if abs(match.difference_bytes) < abs(first_match.difference_bytes):
            match_by_place[match.phase, match.tensor] = match
    return tuple(sorted(match_by_place.values(), key=lambda match: abs(match.difference_bytes)))


class _Phases:
    """The allocations of the phases of a run, compared with an error."""

    def __init__(self, request: RunRequest, resident: ResidentState, workspace_bytes: int, message: Message) -> None:
        self.request, self.run, self.message = request, request.run, message
        self.resident, self.resting = resident, between_steps(resident) + workspace_bytes
        self.evaluation = Evaluation(resident, request.run)
        self.gathered = self.evaluation.gathered

    def matches(self) -> Iterator[PhaseMatch]:
        """Yield the tensors of the requested size."""
        if self.run.evaluates:
            for pass_ in self._passes():
                yield from self._pass_matches(pass_)
            if self.gathered.outputs:
                yield from self._concatenation_matches()
        if self.run.merge_and_unload:
            yield from self._merge_matches()

    def _passes(self) -> Iterator[_Pass]:
        """Yield the passes of a whole batch, and those of the last batch if it has fewer rows."""
        evaluation, whole = self.evaluation, min(self.gathered.rows, self.gathered.in_group)
        last = self.gathered.in_group % self.gathered.rows if self.gathered.ranks == 1 else 0
        for rows in dict.fromkeys((whole, last or whole)):
            given = evaluation.given(rows)
            is_first = self.gathered.in_group == rows
            passed = evaluation.passed(rows, is_first=is_first)
            yield _Pass("evaluation", passed.recording, 0, given, rows)
            for pass_ in evaluation.rolled_out(rows, is_first=is_first):
                yield _Pass("evaluation", pass_.recording, pass_.start, (), rows)
            for pass_ in evaluation.generated(rows, is_first=is_first) if self.run.generates else ():
                yield _Pass("generation", pass_.recording, pass_.start, evaluation.batch(rows), rows)

    def _pass_matches(self, ran: _Pass) -> Iterator[PhaseMatch]:
        recording, events = ran.recording, ran.recording.copies.lifetimes.events
        rows = recording.copies.tape.rows
        places: dict[str, list[int]] = {}
        for place in range(ran.start, len(events)):
            event = events[place]
            if event >= 0 and self._shown_equal(recording.row_bytes(event)):
                places.setdefault(rows[event][0], []).append(place)
        given = self.resting + self.evaluation.resident_bytes + _bytes(ran.given)
        for same_tensor in places.values():
            options = [
                (place, self._closest_batch_count(ran, given + recording.curve.before(place))) for place in same_tensor
            ]
            place, batches = min(
                options, key=lambda option: abs(self._difference(self._allocated_before(ran, given, *option)))
            )
            kept = tuple(self.gathered.before_forward(batches))
            moment = recording.curve.at(place)
            row = _row(rows[events[place]])
            alive = (*kept, *ran.given, *listed(recording.alive(moment)))
            yield self._match(ran.phase, row, alive, batch=batches + 1, count=len(same_tensor))

    def _allocated_before(self, ran: _Pass, given: int, place: int, batches: int) -> int:
        """Return the bytes in use before an event of a pass, after some batches."""
        return given + ran.recording.curve.before(place) + _bytes(self.gathered.before_forward(batches))

    def _closest_batch_count(self, ran: _Pass, given: int) -> int:
        """Return the number of batches after which the bytes in use are closest to the error's figure."""
        whole = self.gathered.in_group // self.gathered.rows_per_gather
        if ran.rows == min(self.gathered.rows, self.gathered.in_group):
            numbers = range(max(1, whole))
        else:
            numbers = range(whole, whole + 1)
        return _closest(
            numbers, lambda n: given + _bytes(self.gathered.before_forward(n)), self.message.allocated.bytes
        )

    def _concatenation_matches(self) -> Iterator[PhaseMatch]:
        """Yield the outputs and labels of all batches so far, each concatenated with those of one more."""
        live_bytes = self.resting + self.evaluation.resident_bytes
        last = -(-self.gathered.in_group // self.gathered.rows_per_gather)
        for number, part in enumerate((*self.gathered.outputs, *self.gathered.labels)):
            if part.bytes * self.gathered.in_group <= SMALL_REQUEST:
                continue

            def requested(batches: int, number: int = number) -> tuple[Row, int]:
                row, alive = self._concatenated(batches, number)
                return row, live_bytes + _bytes(alive)

            sizes = range(1, last)
            least, most = self._range
            low = bisect_left(sizes, least, key=lambda n: requested(n)[0].bytes)
            high = bisect_left(sizes, most, key=lambda n: requested(n)[0].bytes)
            alike = [n for n in sizes[low:high] if self._shown_equal(requested(n)[0].bytes)]
            if alike:
                batches = min(alike, key=lambda n: abs(self._difference(requested(n)[1])))
                yield self._match("evaluation", *self._concatenated(batches, number), batch=batches + 1)

    @property
    def _range(self) -> tuple[int, int]:
        """The sizes of requests that have the segment in the error."""
        requested = self.message.requested
        return requested.bytes - requested.rounding - SMALL_SEGMENT, requested.bytes + requested.rounding + 1

    def _concatenated(self, batches: int, number: int) -> tuple[Row, tuple[Row, ...]]:
        """Return one of the outputs and labels while it is concatenated, and what is in use before."""
        outputs, labels = self.gathered.outputs, self.gathered.labels
        with_outputs, with_labels = self.gathered.concatenations(batches)
        tensors, moment = (outputs, with_outputs) if number < len(outputs) else (labels, with_labels)
        later = [WITH_BATCH.format(kind.name) for kind in tensors[number - len(outputs) * (tensors is labels) :]]
        rows = self.evaluation.in_concatenation(moment)
        later_row = next(row for row in rows if row.name == later[0])
        return later_row, tuple(row for row in rows if row.name not in later)

    def _merge_matches(self) -> Iterator[PhaseMatch]:
        """Yield the tensors that merging each module allocates, in order."""
        served = ServedMethod(method=self.request.estimate.method, quantization=None)
        for _, path, step in merge_steps(self.resident, served, in_run=True):
            before: list[Row] = []
            for allocation in step.allocated if step is not None else ():
                row = merged_row(allocation, step.source if step is not None else "")
                if self._shown_equal(row.bytes):
                    yield self._match("merge", row, tuple(before), name=f"{path}: {row.name}")
                before.append(row)

    def _match(
        self,
        phase: RunPhaseName,
        row: Row,
        alive: tuple[Row, ...],
        *,
        batch: int | None = None,
        count: int = 1,
        name: str = "",
    ) -> PhaseMatch:
        """Return a match, with what is in use in the phase before it."""
        allocated = self.resting + _bytes(alive)
        if phase != "merge":
            allocated += self.evaluation.resident_bytes
        return PhaseMatch(
            phase=phase,
            tensor=name or row.name,
            batch=batch,
            count=count,
            formula=row.formula,
            substituted=row.substituted,
            segment_bytes=segment_bytes(rounded(row.bytes)),
            allocated_bytes=allocated,
            difference_bytes=self._difference(allocated),
            same_allocated=self.message.allocated.includes(allocated),
            alive=tuple(sorted(alive, key=lambda tensor: -tensor.bytes)),
        )

    def _shown_equal(self, size: int) -> bool:
        """Return whether the error's notation is the same for the segment of a request and for its own."""
        return format_size(segment_bytes(rounded(size))) == self.message.requested.text

    def _difference(self, allocated: int) -> int:
        return allocated - self.message.allocated.bytes


def _row(allocation: Allocation) -> Row:
    name, shape, dtype, _, size = allocation
    return Row.build(name=name, count=1, bytes=size, shape=shape, dtype=dtype, source="")


def _bytes(rows: Iterable[Row]) -> int:
    return sum(row.bytes for row in rows)


def _closest(numbers: range, size_of: Callable[[int], int], size: int) -> int:
    """Return the number whose size is closest to a size. The size grows with the number."""
    place = bisect_left(numbers, size, key=size_of)
    near = numbers[max(0, place - 1) : place + 1]
    return min(near, key=lambda n: abs(size_of(n) - size))
