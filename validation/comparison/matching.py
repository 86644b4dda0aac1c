"""Matching of the calculator's rows with the trace's, and the rows that have no counterpart."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from calculator.common.names import PhaseName
    from validation.tracing.snapshot import Row, Snapshot

#: Keys that match rows, the strictest first: the same path, shape and dtype; at last the same sublayer and bytes.
MATCH_KEYS: tuple[Callable[[Row], Hashable], ...] = (
    lambda row: (row.path, row.shape, row.dtype, row.bytes),
    lambda row: (row.path, row.dtype, row.bytes),
    lambda row: (row.sublayer, row.shape, row.dtype, row.bytes),
    lambda row: (row.sublayer, row.dtype, row.bytes),
    lambda row: (row.shape, row.dtype, row.bytes),
    lambda row: (row.dtype, row.bytes),
    lambda row: (row.sublayer, row.bytes),
)

Kind = Literal["missing", "extra", "count", "span"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A row that one side has more of at a phase's peak.

    `missing`: the calculator has none. `extra`: the trace has none. `count`: both have some. `span`: the side that has
    none has such a row at another time.
    """

    kind: Kind
    row: Row
    estimated: int
    traced: int

    @property
    def bytes(self) -> int:
        """Estimated minus traced."""
        return (self.estimated - self.traced) * self.row.bytes


def unmatched(estimated: Counter[Row], traced: Counter[Row]) -> tuple[Counter[Row], Counter[Row]]:
    """Return the rows of each side that have no counterpart."""
    left, right = Counter(estimated), Counter(traced)
    for key in MATCH_KEYS:
        _match(left, right, key)
    return +left, +right


def _match(left: Counter[Row], right: Counter[Row], key: Callable[[Row], Hashable]) -> None:
    candidates: dict[Hashable, list[Row]] = {}
    for row in +right:
        candidates.setdefault(key(row), []).append(row)
    for row in +left:
        for other in candidates.get(key(row), ()):
            matched = min(left[row], right[other])
            left[row] -= matched
            right[other] -= matched


def differences(estimated: Snapshot, traced: Snapshot, phase: PhaseName) -> list[Difference]:
    """Return every difference at a phase's peak, largest first."""
    extra, missing = unmatched(estimated.alive[phase], traced.alive[phase])
    unequal = [
        *_classified(extra, estimated.alive[phase], traced, "extra"),
        *_classified(missing, traced.alive[phase], estimated, "missing"),
    ]
    return sorted(unequal, key=lambda difference: -abs(difference.bytes))


def _classified(left: Counter[Row], all_: Counter[Row], other: Snapshot, kind: Kind) -> Iterator[Difference]:
    for row, count in left.items():
        allocated, matched = all_[row], all_[row] - count
        refined: Kind = "count" if matched else "span" if row.kind in other.kinds else kind
        estimated, traced = (allocated, matched) if kind == "extra" else (matched, allocated)
        yield Difference(kind=refined, row=row, estimated=estimated, traced=traced)
