"""torchtune's README and tutorials, of its own model code and recipes, most without a batch's length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from validation.published.measurement import Run, measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.published.measurement import Measurement, Statistic
    from validation.published.source import Row, Source

OWN_CODE = "torchtune's own model code, recipe and chunked loss"


def measurements(source: Source) -> Iterator[Measurement]:
    """One figure per row, with the statistic that its text names."""
    for row in source.rows:
        run = Run(differs=tuple(_differs(row)))
        yield measurement(source, row, _statistic(row), row["measured"]["bytes"], run, setting=row.get("technique", ""))


def _statistic(row: Row) -> Statistic:
    text = row["statistic"]
    if "reserved" in text:
        return "max_memory_reserved"
    return "max_memory_allocated" if "allocated" in text or "Active" in text else "unstated"


def _differs(row: Row) -> Iterator[str]:
    yield OWN_CODE
    if row.get("compile"):
        yield "torch.compile"
    if not isinstance(row.get("seq_len"), int):
        yield "the longest sequence is not stated"
    if row["num_gpus"] > 1:
        yield f"{row.get('distributed', 'sharding')} over {row['num_gpus']} GPUs"
    if row["quality"] != "exact config":
        yield "parts of the configuration are not stated"
