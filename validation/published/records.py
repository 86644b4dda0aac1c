"""Records of `validation.runtime.MemoryCheck` as measurements, next to the published ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from calculator.common.errors import refusal
from validation.published.measurement import Measurement, Run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from validation.published.measurement import Point, Statistic

#: The statistics that are compared, each with the point of the step at which it is read.
STATISTICS: dict[str, tuple[Statistic, Point | None]] = {
    "memory_allocated": ("memory_allocated", "between_steps"),
    "max_memory_allocated": ("max_memory_allocated", None),
    "max_memory_reserved": ("max_memory_reserved", None),
}


def record_measurements(path: Path) -> Iterator[Measurement]:
    """Yield the figures of a record's last step; a record of a CPU has none that a GPU's are compared with.

    Raises:
        PlanError: if the file is no record.
    """
    record = _read(path)
    row = record["rows"][-1]
    for name, (statistic, point) in STATISTICS.items():
        if name in row["measured"]:
            yield Measurement(
                id=f"records/{path.stem}/{name}",
                source="records",
                model=str(record["request"]["model"]["config"].get("model_type")),
                method=record["request"]["method"]["name"],
                setting=f"step {row['step']}",
                gpu=record["device"],
                statistic=statistic,
                point=point,
                bytes=row["measured"][name],
                address=path.name,
                date=record["date"],
                versions=record["versions"],
                run=Run(request=record["request"]),
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] == 1 and record["rows"][-1]["measured"] and record["request"]["model"]["config"]:
            return record
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise refusal("--records", f"{path} is no record of MemoryCheck: {error}", str(path)) from error
    raise refusal("--records", f"{path} is a record of another format than 1", str(path))
