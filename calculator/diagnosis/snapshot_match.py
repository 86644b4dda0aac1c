"""The moment of a run whose live tensors match the blocks of a snapshot."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.common.dtype import rounded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.common.names import ComponentName
    from calculator.devices.outcome import ReplayPhase
    from calculator.diagnosis.journal import Journal, Kind
    from calculator.diagnosis.snapshot import Snapshot

#: The maximum number of kinds of blocks, or of tensors, that a comparison lists.
MOST = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """The blocks of one size, and the tensors of the run that have this size at the moment."""

    size: int
    blocks: int
    tensors: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotMatch:
    """A snapshot's blocks, compared with the tensors that are alive at the closest moment of the run.

    Attributes:
        snapshot: The snapshot.
        step, phase, tensor: The moment: just after this tensor is requested or freed.
        same_bytes: The bytes of blocks that are matched with tensors of the same size.
        other_bytes: The bytes of blocks without a tensor of their size.
        missing_bytes: The bytes of tensors without a block of their size.
        matched: The largest sizes in common.
        others: The largest sizes of blocks without a tensor.
        missing: The largest tensors without a block.
        components: The bytes of the tensors at the moment by component.
    """

    snapshot: Snapshot
    step: int
    phase: ReplayPhase
    tensor: str
    same_bytes: int
    other_bytes: int
    missing_bytes: int
    matched: tuple[Matched, ...]
    others: tuple[Matched, ...]
    missing: tuple[Matched, ...]
    components: dict[ComponentName, int]


def match_snapshot(journal: Journal, snapshot: Snapshot) -> SnapshotMatch:
    """Find the moment at which the fewest bytes differ between the live tensors and the snapshot's blocks.

    If several moments are equal, it is one after which the request follows that failed.
    """
    following = _precede_failed_request(journal, snapshot)
    place = _closest(journal, snapshot, following)
    event = journal.log[place]
    # A tensor may be freed in another phase than that in which it was requested.
    latest = journal.log[place + 1] if following[place] else max(journal.log[: place + 1])
    request = journal.requests[latest]
    alive: dict[int, Counter[Kind]] = {}
    components: dict[ComponentName, int] = {}
    for number in journal.alive_requests(place + 1):
        requested = journal.requests[number]
        alive.setdefault(requested.size, Counter())[requested.kind] += 1
        components[requested.kind.component] = components.get(requested.kind.component, 0) + requested.size
    sizes = [
        _match_of_size(size, snapshot.blocks[size], alive.get(size, Counter())) for size in {*snapshot.blocks, *alive}
    ]
    sizes.sort(key=lambda size: -size.size * max(size.blocks, size.tensors))
    return SnapshotMatch(
        snapshot=snapshot,
        step=request.step,
        phase=request.phase,
        tensor=journal.requests[max(event, ~event)].kind.name,
        same_bytes=sum(match.size * min(match.blocks, match.tensors) for match in sizes),
        other_bytes=sum(match.size * max(0, match.blocks - match.tensors) for match in sizes),
        missing_bytes=sum(match.size * max(0, match.tensors - match.blocks) for match in sizes),
        matched=tuple(match for match in sizes if match.blocks and match.tensors)[:MOST],
        others=tuple(match for match in sizes if match.blocks > match.tensors)[:MOST],
        missing=tuple(match for match in sizes if match.tensors > match.blocks)[:MOST],
        components=components,
    )


def _closest(journal: Journal, snapshot: Snapshot, following: Sequence[bool]) -> int:
    """Return the position in the log after which the fewest bytes differ.

    If several are equal, return the first one that the failed request follows, or else the first one. `following`:
    whether it follows each position.
    """
    left = Counter(snapshot.blocks)
    differing = sum(size * count for size, count in left.items())
    best, place = (differing + 1, False), 0
    for position, (event, fails) in enumerate(zip(journal.log, following, strict=True)):
        size = journal.requests[max(event, ~event)].size
        if event >= 0:
            differing += -size if left[size] > 0 else size
            left[size] -= 1
        else:
            left[size] += 1
            differing += size if left[size] > 0 else -size
        if (differing, not fails) < best:
            best, place = (differing, not fails), position
    return place


def _precede_failed_request(journal: Journal, snapshot: Snapshot) -> list[bool]:
    """Return for each event whether the next one is a request of the size that failed."""
    failed = None if snapshot.failed_bytes is None else rounded(snapshot.failed_bytes)
    return [*(event >= 0 and journal.requests[event].size == failed for event in journal.log[1:]), False]


def _match_of_size(size: int, blocks: int, tensors: Counter[Kind]) -> Matched:
    return Matched(size=size, blocks=blocks, tensors=tensors.total(), names=tuple({kind.name: 0 for kind in tensors}))
