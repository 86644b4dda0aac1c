"""Liger Kernel's micro-benchmarks: single operations, no training steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from validation.published.measurement import Run, measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.published.measurement import Measurement
    from validation.published.source import Source

SINGLE = Run(differs=("a single operation, no training step",))


def measurements(source: Source) -> Iterator[Measurement]:
    """Yield the most bytes allocated during one operation."""
    for row in source.rows:
        setting = f"{row['provider']}, {row['mode']}, {row['x_name']} {row['x_value']:g}"
        yield measurement(source, row, "max_memory_allocated", row["measured"]["bytes"], SINGLE, setting=setting)
