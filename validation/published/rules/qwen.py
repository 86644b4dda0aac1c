"""Qwen's README: Qwen-7B and 1.8B on their own remote code, GPU memory without its statistic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from validation.published.measurement import Run, measurement
from validation.published.rules.ms_swift import REMOTE_CODE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.published.measurement import Measurement
    from validation.published.source import Row, Source


def measurements(source: Source) -> Iterator[Measurement]:
    """Yield one figure per row."""
    for row in source.rows:
        run = Run(differs=tuple(_differs(row)))
        yield measurement(source, row, "unstated", row["measured"]["bytes"], run, setting=row["variant"])


def _differs(row: Row) -> Iterator[str]:
    yield REMOTE_CODE
    yield "the statistic and its unit are not stated"
    if "GPTQ" in str(row.get("quantization")):
        yield "a base in GPTQ with the kernels of auto-gptq: those of gptqmodel are modeled"
    if "DeepSpeed" in row["distributed"]:
        yield f"{row['distributed']}, {row['num_gpus']} GPUs"
