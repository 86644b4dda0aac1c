"""The calculator's rows paired with the trace's, and what is left over."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from calculator.common.names import PhaseName
    from validation.tracing.snapshot import Row, Snapshot

#: By what rows are paired, the surest first: the same place, shape and type; in the end the same bytes.
SAME: tuple[Callable[[Row], Hashable], ...] = (
    lambda row: (row.path, row.shape, row.dtype, row.bytes),
    lambda row: (row.path, row.dtype, row.bytes),
    lambda row: (row.place, row.shape, row.dtype, row.bytes),
    lambda row: (row.place, row.dtype, row.bytes),
    lambda row: (row.shape, row.dtype, row.bytes),
    lambda row: (row.dtype, row.bytes),
    lambda row: (row.place, row.bytes),
)

Kind = Literal["missing", "extra", "count", "span"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A row that one side has more of at a phase's peak.

    `missing`: the calculator has none; `extra`: the trace has none; `count`: both have some; `span`: the side that has
    none has such a row at another moment. `bytes` is what the calculator has more of.
    """

    kind: Kind
    row: Row
    estimated: int
    traced: int

    @property
    def bytes(self) -> int:
        """Estimated less traced."""
        return (self.estimated - self.traced) * self.row.bytes


def unpaired(estimated: Counter[Row], traced: Counter[Row]) -> tuple[Counter[Row], Counter[Row]]:
    """What of either side has no counterpart."""
    left, right = Counter(estimated), Counter(traced)
    for same in SAME:
        _pair(left, right, same)
    return +left, +right


def _pair(left: Counter[Row], right: Counter[Row], same: Callable[[Row], Hashable]) -> None:
    waiting: dict[Hashable, list[Row]] = {}
    for row in +right:
        waiting.setdefault(same(row), []).append(row)
    for row in +left:
        for other in waiting.get(same(row), ()):
            paired = min(left[row], right[other])
            left[row] -= paired
            right[other] -= paired


def differences(estimated: Snapshot, traced: Snapshot, phase: PhaseName) -> list[Difference]:
    """Every difference at a phase's peak, the largest first."""
    extra, missing = unpaired(estimated.alive[phase], traced.alive[phase])
    found = [
        *_told(extra, estimated.alive[phase], traced, "extra"),
        *_told(missing, traced.alive[phase], estimated, "missing"),
    ]
    return sorted(found, key=lambda difference: -abs(difference.bytes))


def _told(left: Counter[Row], all_: Counter[Row], other: Snapshot, kind: Kind) -> Iterator[Difference]:
    for row, count in left.items():
        paired = all_[row] - count
        named: Kind = "count" if paired else "span" if row.kind in other.ever else kind
        has, lacks = all_[row], paired
        more, less = (has, lacks) if kind == "extra" else (lacks, has)
        yield Difference(kind=named, row=row, estimated=more, traced=less)
