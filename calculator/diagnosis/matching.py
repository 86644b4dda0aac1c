"""The allocations of a run that an out-of-memory error may refer to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.allocator.out_of_memory import format_size
from calculator.allocator.segments import SMALL_SEGMENT, segment_bytes
from calculator.architecture.dimension import Dim, elements, substituted, symbolic
from calculator.common.dtype import ITEMSIZE, rounded
from calculator.sharding.zero.replayed import OF_UPDATE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.common.names import ComponentName
    from calculator.devices.outcome import ReplayPhase
    from calculator.diagnosis.journal import Journal, Kind
    from calculator.diagnosis.message import Message, RoundedSize
    from calculator.training_step.unrolled import Events

#: The name of a sequence's tokens in shapes.
LENGTH = "S"

#: The maximum number of tensors that are named because another length explains their size.
MOST_LENGTHS = 3

#: The longest sequence, in tokens, that may explain a size.
LONGEST = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A tensor of the size that was requested.

    Attributes:
        tensor: The name. `*` stands for the number of the layer.
        component: What the memory is used for.
        step: 0 while the model is loaded, 1 in the first step, 2 in every later one.
        phase: The phase that runs then.
        count: How often it is requested then, for example once in each layer.
        formula, substituted: Its shape times its element size, with names and with numbers. Empty for other tensors.
        requested_bytes: The request, rounded to a block.
        segment_bytes: The size of the segment that the device allocates for it.
        allocated_bytes: The bytes in use before the request of it that is closest to the error's figure.
        difference_bytes: `allocated_bytes` less the error's figure.
        same_allocated: Whether the two are equal in the error's notation.
        is_reached: Whether the run gets there: nothing before it needs more than the error's device offered.
        request: The index of that request in the journal.
    """

    tensor: str
    component: ComponentName
    step: int
    phase: ReplayPhase
    count: int
    formula: str
    substituted: str
    requested_bytes: int
    segment_bytes: int
    allocated_bytes: int
    difference_bytes: int
    same_allocated: bool
    is_reached: bool
    request: int


def matches(journal: Journal, message: Message) -> tuple[Match, ...]:
    """Return every tensor whose segment the error writes as its size.

    Those of the optimizer come first if the error has a traceback through it, then those that the run reaches. Among
    them, those closest to the error's allocated bytes come first.
    """
    requested, allocated = message.requested, message.allocated
    reached = _reached(journal, message)
    segments = {request.segment for request in journal.requests}
    alike = {segment for segment in segments if format_size(segment) == requested.text}
    groups: dict[tuple[int, ReplayPhase, str], list[int]] = {}
    for number, request in enumerate(journal.requests):
        if request.segment in alike:
            groups.setdefault((request.step, request.phase, request.kind.name), []).append(number)
    journal_matches = [_match(journal, numbers, allocated, reached) for numbers in groups.values()]

    def order(match: Match) -> tuple[bool, bool, int]:
        is_update = match.phase == "optimizer_step" and match.tensor not in OF_UPDATE
        return message.in_optimizer and not is_update, not match.is_reached, abs(match.difference_bytes)

    return tuple(sorted(journal_matches, key=order))


def _reached(journal: Journal, message: Message) -> int:
    """Return the index of the first request with which the run has more allocated than the device offered."""
    most = message.capacity_bytes + sum(
        figure.rounding for figure in (message.allocated, message.unallocated, message.free)
    )
    return next((n for n, request in enumerate(journal.requests) if request.allocated > most), len(journal.requests))


def _match(journal: Journal, numbers: Sequence[int], allocated: RoundedSize, reached: int) -> Match:
    def distance(number: int) -> tuple[bool, int]:
        return number >= reached, abs(journal.requests[number].allocated - allocated.bytes)

    closest = min(numbers, key=distance)
    request = journal.requests[closest]
    formula, numbers_of = _formulas(request.kind)
    return Match(
        tensor=request.kind.name,
        component=request.kind.component,
        step=request.step,
        phase=request.phase,
        count=len(numbers),
        formula=formula,
        substituted=numbers_of,
        requested_bytes=request.size,
        segment_bytes=request.segment,
        allocated_bytes=request.allocated,
        difference_bytes=request.allocated - allocated.bytes,
        same_allocated=allocated.includes(request.allocated),
        is_reached=closest < reached,
        request=closest,
    )


def _formulas(kind: Kind) -> tuple[str, str]:
    if kind.shape is None or kind.dtype is None:
        return "", ""
    size = ITEMSIZE[kind.dtype]
    return f"{symbolic(kind.shape)} × {size}", f"{substituted(kind.shape)} × {size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherLength:
    """A tensor that would have the requested size with sequences of another length, from `least` to `most` tokens."""

    tensor: str
    least: int
    most: int


def other_lengths(micro_batches: Iterable[Events], requested: RoundedSize, length: int) -> tuple[OtherLength, ...]:
    """Return the largest tensors that have the requested size at another sequence length."""
    by_tensor: dict[str, OtherLength] = {}
    rows = {row[0]: row for events in micro_batches for row in events.rows}
    for name, shape, dtype, _, _ in sorted(rows.values(), key=lambda row: -row[4]):
        if len(by_tensor) == MOST_LENGTHS:
            break
        if [size.name if isinstance(size, Dim) else "" for size in shape].count(LENGTH) == 1:
            lengths = _lengths(elements(shape) * ITEMSIZE[dtype] / length, requested)
            if lengths is not None:
                by_tensor[name] = OtherLength(tensor=name, least=lengths[0], most=lengths[1])
    return tuple(by_tensor.values())


def _lengths(per_token: float, requested: RoundedSize) -> tuple[int, int] | None:
    """Return the lengths at which a tensor with some bytes per token has a segment of the requested size."""
    least = int(max(0, requested.bytes - requested.rounding - SMALL_SEGMENT) // per_token)
    most = int((requested.bytes + requested.rounding) // per_token) + 1
    if most > LONGEST or most - least > LONGEST >> 8:
        return None
    fits = [n for n in range(max(1, least), most + 1) if _segment_text(int(per_token * n)) == requested.text]
    return (fits[0], fits[-1]) if fits else None


def _segment_text(size: int) -> str:
    return format_size(segment_bytes(rounded(size)))


def alive(journal: Journal, match: Match) -> tuple[tuple[Kind, int, int], ...]:
    """Return the live tensors when a match is requested: each tensor, its count, and their bytes, the largest first."""
    place = journal.log.index(match.request)
    counts: dict[Kind, list[int]] = {}
    for number in journal.alive_requests(place):
        request = journal.requests[number]
        counts.setdefault(request.kind, []).append(request.size)
    groups = [(kind, len(sizes), sum(sizes)) for kind, sizes in counts.items()]
    return tuple(sorted(groups, key=lambda candidate: -candidate[2]))
