"""The view of the validation page: errors, the worst figures with reasons, and runs that no request describes."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.api.accuracy.accuracy import LABELS
from app.api.accuracy.residuals import STATISTICS, step_figures
from app.pages.validation.scatter import PATHS, measurements_figure
from app.presentation.labels import PHASES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.api.answers.validation import MeasuredAnswer, PublishedAnswer, PublishedRow

#: Figures with at least this absolute error are among the worst.
WORST = 0.003

#: Headings of the groups of errors.
GROUPS = {
    "all": "Together",
    "source": "By source",
    "method": "By method",
    "statistic": "By statistic",
    "phase": "By the phase of the estimate's peak",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstFigures:
    """The worst figures of one source, method and statistic."""

    rows: tuple[PublishedRow, ...]
    lowest_error: float
    highest_error: float

    @property
    def first(self) -> PublishedRow:
        """The figure with the largest error."""
        return self.rows[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many figures of a source there are, by how much of the run a request describes."""

    source: str
    whole: int
    in_part: int
    not_at_all: int

    @property
    def figures(self) -> int:
        """All figures of the source."""
        return self.whole + self.in_part + self.not_at_all


@dataclass(frozen=True, slots=True, kw_only=True)
class Unexpressed:
    """Figures of a source that a request describes in part or not at all.

    `reasons`: each with the number of figures that have it. A figure can have several.
    """

    source: str
    figures: int
    reasons: tuple[tuple[str, int], ...]
    lowest_error: float | None
    highest_error: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A GPU and the versions with which figures were measured."""

    source: str
    gpu: str
    versions: str
    figures: int


def context(published: PublishedAnswer | None) -> dict[str, Any]:
    """Return the template context of the published results."""
    if published is None:
        return {"published": None}
    complete = whole(published)
    in_part = tuple(row for row in published.rows if row.expressed == "in part" and row.error is not None)
    return {
        "published": published,
        "whole": complete,
        "in_part": in_part,
        "counts": counts(published),
        "figure": measurements_figure((*complete, *in_part)),
        "worst": worst(complete),
        "near_limit": near_limit(published),
        "partly_expressed": unexpressed(published, "in part"),
        "not_expressed": unexpressed(published, "not"),
        "environments": environments(complete),
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
    """Return the figures whose run a request describes completely."""
    return tuple(row for row in published.rows if row.expressed == "whole" and row.error is not None)


def counts(published: PublishedAnswer) -> tuple[Counts, ...]:
    """Return the numbers of figures of each source, those with the most complete runs first."""
    numbers = Counter((row.source, row.expressed) for row in published.rows)
    by_source = (
        Counts(
            source=source.name,
            whole=numbers[source.name, "whole"],
            in_part=numbers[source.name, "in part"],
            not_at_all=numbers[source.name, "not"],
        )
        for source in published.sources
    )
    return tuple(sorted(by_source, key=lambda count: (-count.whole, -count.in_part)))


def near_limit(published: PublishedAnswer) -> tuple[PublishedRow, ...]:
    """Return the figures of runs near their GPU's limit, the nearest first."""
    rows = {row.id: row for row in published.rows}
    return tuple(rows[name] for name in published.near_limit.rows)


def worst(rows: Iterable[PublishedRow]) -> tuple[WorstFigures, ...]:
    """Return the worst figures, grouped by source, method and statistic, largest error first."""
    groups: defaultdict[tuple[str, str, str], list[PublishedRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: -abs(row.error or 0)):
        if abs(row.error or 0) >= WORST:
            groups[row.source, row.method, row.statistic].append(row)
    return tuple(_worst(tuple(group)) for group in groups.values())


def _worst(rows: tuple[PublishedRow, ...]) -> WorstFigures:
    errors = [row.error or 0.0 for row in rows]
    return WorstFigures(rows=rows, lowest_error=min(errors), highest_error=max(errors))


def unexpressed(published: PublishedAnswer, expressed: str) -> tuple[Unexpressed, ...]:
    """Return the figures that a request describes in part (or not at all), by source."""
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
    """Return the GPUs and versions of the measurements, most figures first."""
    counts = Counter((row.source, row.gpu, _versions(row.versions)) for row in rows)
    return tuple(
        Environment(source=source, gpu=gpu, versions=versions, figures=figures)
        for (source, gpu, versions), figures in counts.most_common()
    )


def _versions(versions: dict[str, str]) -> str:
    packages = ("torch", "transformers", "peft", "bitsandbytes")
    return ", ".join(f"{name} {versions[name]}" for name in packages if name in versions) or "not stated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A figure of a step that we measured, and its estimate."""

    name: str
    statistic: str
    estimated_bytes: int
    measured_bytes: int

    @property
    def error(self) -> float:
        """The estimate divided by the measurement, minus one."""
        return round(self.estimated_bytes / self.measured_bytes - 1, 6)


def steps(device: MeasuredAnswer) -> tuple[Step, ...]:
    """Return every figure of the steps that were measured on a device."""
    return tuple(_step(step, statistic, *figures) for step in device.steps for statistic, figures in _figures(step))


def _figures(step: dict[str, Any]) -> list[tuple[str, tuple[int, int]]]:
    if step["measured"] is None:
        return []
    return [(name, (estimated, measured)) for name, (estimated, measured) in step_figures(step).items() if measured]


def _step(step: dict[str, Any], statistic: str, estimated: int, measured: int) -> Step:
    return Step(name=step["name"], statistic=statistic, estimated_bytes=estimated, measured_bytes=measured)
