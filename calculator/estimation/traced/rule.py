"""The rule for reserved memory, applied to a traced step."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from calculator.allocator.reserved_rule import in_segments, whole_segments
from calculator.allocator.segments import segment_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.estimation.traced.document import TraceDocument


def estimate_reserved(document: TraceDocument, workspaces: Iterable[int]) -> int:
    """Return the rule's estimate of `torch.cuda.max_memory_reserved` for a trace, in bytes.

    `reserved_rule.estimate_reserved` does the same for a step.
    """
    loaded = sum(tensor.bytes for tensor in document.loaded if tensor.base)
    kept = Counter(tensor.bytes for tensor in document.loaded if not tensor.base)
    static = map(document.kind, range(document.static))
    kept.update(kind.bytes for kind in static if kind.component == "optimizer_states")
    kept.update(workspaces)
    steps, left = _in_step(document)
    largest = max(steps, default=0)
    again = segment_bytes(largest) if largest and left >= largest else 0
    return whole_segments(loaded) + in_segments(kept) + in_segments(steps) + again


def _in_step(document: TraceDocument) -> tuple[dict[int, int], int]:
    """Return the maximum number of live storages of each size, and the bytes that the forward pass leaves."""
    starts = [at for at, _ in document.phase_starts]
    alive: Counter[int] = Counter()
    most: dict[int, int] = {}
    left = 0
    for at in range(starts[0], len(document.events)):
        if at == starts[1]:
            left = sum(size * count for size, count in alive.items())
        event = document.events[at]
        number = max(event, ~event)
        if number < document.static:
            continue
        size = document.kind(number).bytes
        alive[size] += 1 if event >= 0 else -1
        most[size] = max(most.get(size, 0), alive[size])
    return most, left
