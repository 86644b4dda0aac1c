"""Figures in Hugging Face's documentation: an encoder, sharded runs, and runs without batch, length or dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

from validation.published.measurement import Run, measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.published.measurement import Measurement, Statistic
    from validation.published.source import Row, Source

#: Each page's statistic, and why no request expresses its figures.
FAMILIES: dict[str, tuple[Statistic, str]] = {
    "hf-performance-doc": ("nvidia_smi", "BERT in the Trainer of January 2022, whose releases are not stated"),
    "peft-readme": ("max_memory_allocated", "batches of the twitter_complaints examples, whose lengths are not stated"),
    "peft-docs": ("unstated", "batch, length or dtype is not stated"),
}


def measurements(source: Source) -> Iterator[Measurement]:
    """Yield one figure per row."""
    for row in source.rows:
        statistic, reason = FAMILIES[row["family"]]
        run = Run(differs=(reason, *_differs(row)))
        setting = row.get("technique") or row["family"]
        yield measurement(source, row, statistic, row["measured"].get("bytes"), run, setting=setting)


def _differs(row: Row) -> Iterator[str]:
    if row.get("distributed"):
        yield f"{row['distributed']} over {row['num_gpus']} GPUs"
    if "offload" in row["method"]:
        yield "states and weights offloaded to the CPU"
