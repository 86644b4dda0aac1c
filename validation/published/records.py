"""Records of `validation.runtime.MemoryCheck` as measurements, next to the published ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from calculator.common.errors import refusal
from calculator.estimation.request import parse_request
from validation.published.measurement import Measurement, Run
from validation.runtime.readings import RESIDENT, predicted

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
    """Yield the figures of a record's last step on a GPU.

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


def resident_line(path: Path) -> str | None:
    """Compare what stays between the steps of a record on a CPU, which measures nothing else; None of a GPU's.

    Raises:
        PlanError: if the file is no record.
    """
    record = _read(path)
    row = record["rows"][-1]
    measured = row["measured"].get(RESIDENT)
    if measured is None:
        return None
    size = predicted(parse_request(record["request"]), torch.device("cpu"))[RESIDENT]
    return (
        f"records/{path.stem}/{RESIDENT}, step {row['step']} on a CPU: {measured:,} measured, {size:,} predicted"
        f" ({size / measured - 1:+.3%})"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] == 1 and record["rows"][-1]["measured"] and record["request"]["model"]["config"]:
            return record
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise refusal("--records", f"{path} is no record of MemoryCheck: {error}", str(path)) from error
    raise refusal("--records", f"{path} is a record of another format than 1", str(path))
