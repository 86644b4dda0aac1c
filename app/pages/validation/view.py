"""What the validation page shows: the errors, the worst figures with their reasons, and what no request says."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.api.accuracy.accuracy import LABELS
from app.api.accuracy.residuals import STATISTICS, of_step
from app.pages.validation.scatter import PATHS, measurements_figure
from app.presentation.labels import PHASES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.api.answers.measurements import MeasuredAnswer, PublishedAnswer, PublishedRow

#: The absolute error from which a figure is among the worst.
WORST = 0.003

#: What groups of errors are by, in words.
GROUPS = {
    "all": "Together",
    "source": "By source",
    "method": "By method",
    "statistic": "By what was read",
    "phase": "By the phase of the estimate's peak",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Worst:
    """Figures of one source, method and statistic that are far off, with what is known of why."""

    rows: tuple[PublishedRow, ...]
    lowest_error: float
    highest_error: float

    @property
    def first(self) -> PublishedRow:
        """The one that is furthest off."""
        return self.rows[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unexpressed:
    """Figures of a source that a request says in part, or not, and how many of them each reason concerns."""

    source: str
    figures: int
    reasons: tuple[tuple[str, int], ...]
    lowest_error: float | None
    highest_error: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A card and the versions that figures were measured with."""

    source: str
    gpu: str
    versions: str
    figures: int


def shown(published: PublishedAnswer | None) -> dict[str, Any]:
    """What the page's templates show of the published results."""
    if published is None:
        return {"published": None}
    said = whole(published)
    in_part = tuple(row for row in published.rows if row.expressed == "in part" and row.error is not None)
    return {
        "published": published,
        "whole": said,
        "in_part": in_part,
        "figure": measurements_figure((*said, *in_part)),
        "worst": worst(said),
        "partly_expressed": unexpressed(published, "in part"),
        "not_expressed": unexpressed(published, "not"),
        "environments": environments(said),
        "groups": GROUPS,
        "marks": PATHS,
        "titles": {source.name: source.title for source in published.sources},
        "labels": {
            "source": {source.name: source.title for source in published.sources},
            "method": LABELS,
            "statistic": STATISTICS,
            "phase": PHASES,
        },
    }


def whole(published: PublishedAnswer) -> tuple[PublishedRow, ...]:
    """Every figure that a request says whole, as the file has them."""
    return tuple(row for row in published.rows if row.expressed == "whole" and row.error is not None)


def worst(rows: Iterable[PublishedRow]) -> tuple[Worst, ...]:
    """The figures that are far off, alike ones together, the furthest first."""
    alike: defaultdict[tuple[str, str, str], list[PublishedRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: -abs(row.error or 0)):
        if abs(row.error or 0) >= WORST:
            alike[row.source, row.method, row.statistic].append(row)
    return tuple(_worst(tuple(group)) for group in alike.values())


def _worst(rows: tuple[PublishedRow, ...]) -> Worst:
    errors = [row.error or 0.0 for row in rows]
    return Worst(rows=rows, lowest_error=min(errors), highest_error=max(errors))


def unexpressed(published: PublishedAnswer, expressed: str) -> tuple[Unexpressed, ...]:
    """By source, the figures that a request says in part, or not at all."""
    by_source: defaultdict[str, list[PublishedRow]] = defaultdict(list)
    for row in published.rows:
        if row.expressed == expressed:
            by_source[row.source].append(row)
    return tuple(_unexpressed(source, rows) for source, rows in by_source.items())


def _unexpressed(source: str, rows: list[PublishedRow]) -> Unexpressed:
    errors = [row.error for row in rows if row.error is not None]
    return Unexpressed(
        source=source,
        figures=len(rows),
        reasons=tuple(Counter(reason for row in rows for reason in row.differs).most_common()),
        lowest_error=min(errors, default=None),
        highest_error=max(errors, default=None),
    )


def environments(rows: Iterable[PublishedRow]) -> tuple[Environment, ...]:
    """What the figures were measured with, most figures first."""
    counts = Counter((row.source, row.gpu, _versions(row.versions)) for row in rows)
    return tuple(
        Environment(source=source, gpu=gpu, versions=versions, figures=figures)
        for (source, gpu, versions), figures in counts.most_common()
    )


def _versions(versions: dict[str, str]) -> str:
    named = ("torch", "transformers", "peft", "bitsandbytes")
    return ", ".join(f"{name} {versions[name]}" for name in named if name in versions) or "not told"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step that we measured: a figure of a statistic beside the estimate."""

    name: str
    statistic: str
    estimated_bytes: int
    measured_bytes: int

    @property
    def error(self) -> float:
        """The estimate over what was measured, less one."""
        return round(self.estimated_bytes / self.measured_bytes - 1, 6)


def steps(device: MeasuredAnswer) -> tuple[Step, ...]:
    """Every figure of the steps of a device."""
    return tuple(_step(step, statistic, *figures) for step in device.steps for statistic, figures in _figures(step))


def _figures(step: dict[str, Any]) -> list[tuple[str, tuple[int, int]]]:
    if step["measured"] is None:
        return []
    return [(name, (estimated, measured)) for name, (estimated, measured) in of_step(step).items() if measured]


def _step(step: dict[str, Any], statistic: str, estimated: int, measured: int) -> Step:
    return Step(name=step["name"], statistic=statistic, estimated_bytes=estimated, measured_bytes=measured)
